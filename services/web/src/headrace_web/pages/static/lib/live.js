// Follows server-sent events and shows in the header whether the page is live.

const open = new Map();

/**
 * Follows a stream of server-sent events until `close` is called. The browser reconnects by itself
 * and sends the id of the last event, so no event is missing.
 *
 * @param {string} url
 * @param {Object} listeners By event type, each called with the parsed JSON data and the event id.
 *   The key `expired` is called if the server no longer has the events after the last id; the page
 *   then has to load its data again.
 * @returns {{close: () => void}}
 */
export function follow(url, { expired, ...listeners }) {
  const source = new EventSource(url);
  const stream = { close };
  set("connecting");
  source.addEventListener("open", () => set("live"));
  source.addEventListener("error", (event) => {
    if (event instanceof MessageEvent) return;
    if (source.readyState === EventSource.CLOSED) {
      set("ended");
      expired?.();
    } else {
      set("reconnecting");
    }
  });
  for (const [type, listener] of Object.entries(listeners)) {
    source.addEventListener(type, (event) => {
      if (!(event instanceof MessageEvent) || !event.data) return;
      listener(JSON.parse(event.data), event.lastEventId);
    });
  }
  return stream;

  function set(state) {
    open.set(stream, state);
    show();
  }

  function close() {
    source.close();
    open.delete(stream);
    show();
  }
}

const TEXTS = {
  live: "Live",
  connecting: "Connecting…",
  reconnecting: "Reconnecting…",
  ended: "Not live. Reload the page.",
};

function show() {
  const mark = document.getElementById("live");
  if (!mark) return;
  const states = [...open.values()];
  const state = ["ended", "reconnecting", "connecting", "live"].find((each) => states.includes(each));
  mark.hidden = !state;
  if (!state) return;
  mark.dataset.state = state;
  mark.textContent = TEXTS[state];
}

// Firefox reports an error for each open stream when the user leaves the page.
addEventListener("pagehide", () => {
  for (const stream of [...open.keys()]) stream.close();
});
