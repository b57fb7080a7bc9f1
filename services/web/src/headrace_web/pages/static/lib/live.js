// Follows server-sent events and shows in the header whether the page is live.

import { logIn } from "./api.js";
import { events } from "./event_stream.js";

// The server sends at least a comment every 15 seconds.
const SILENCE = 45_000;
const FIRST_WAIT = 500;
const LONGEST_WAIT = 10_000;

const open = new Map();

/**
 * Collects items until the next frame, because a page that is drawn for each event is slow.
 *
 * @param {(items: Array) => void} handle Receives the items of a frame.
 * @returns {{add: (item) => void, cancel: () => void}} `cancel` drops the items without a frame.
 */
export function eachFrame(handle) {
  let items = [];
  let frame = 0;
  return {
    add(item) {
      if (!items.length) frame = requestAnimationFrame(() => handle(items.splice(0)));
      items.push(item);
    },
    cancel() {
      cancelAnimationFrame(frame);
      items = [];
    },
  };
}

/**
 * Follows a stream of server-sent events until `close` is called or the stream has ended. After a
 * disconnect it resumes behind the last event, so no event is lost or repeated.
 *
 * @param {string} url
 * @param {Object} listeners By event type, each called with the parsed JSON data and the event id.
 * @param {Object} [ends]
 * @param {() => void} [ends.ended] Called when there are no more events.
 * @param {() => void} [ends.gone] Called if the server no longer has the events after the last id.
 * @param {(problem: Object) => void} [ends.refused] Called with the problem document if the server
 *   refuses the stream.
 * @returns {{close: () => void}}
 */
export function follow(url, listeners, ends = {}) {
  const controller = new AbortController();
  const stream = { close };
  let lastId = "";
  let failures = 0;
  let rejections = 0;
  run();
  return stream;

  async function run() {
    while (!controller.signal.aborted) {
      set(failures ? "reconnecting" : "connecting");
      try {
        if (await readOnce()) return;
      } catch (error) {
        if (controller.signal.aborted) return;
        // The connection was lost or could not be made.
        if (error instanceof SyntaxError) throw error;
      }
      await wait();
    }
  }

  /** Reads until a disconnect. Returns whether the stream is over. */
  async function readOnce() {
    const silence = new AbortController();
    let timer = setTimeout(() => silence.abort(), SILENCE);
    try {
      const response = await fetch(url, {
        headers: { accept: "text/event-stream", ...(lastId ? { "last-event-id": lastId } : {}) },
        credentials: "same-origin", cache: "no-store", signal: AbortSignal.any([controller.signal, silence.signal]),
      });
      if (response.status === 204) return end("ended");
      if (response.status === 410) return end("gone");
      if (response.status === 401) return logInAgain();
      if (!response.ok) return refuse(await response.json().catch(() => ({ status: response.status, title: response.statusText })));
      set("live");
      const body = response.body.pipeThrough(new TransformStream({
        transform(chunk, output) {
          clearTimeout(timer);
          timer = setTimeout(() => silence.abort(), SILENCE);
          output.enqueue(chunk);
        },
      }));
      for await (const event of events(body)) {
        if (event.id !== null) lastId = event.id;
        if (event.data === "") continue;
        const data = JSON.parse(event.data);
        if (event.type === "problem") return data.status === 401 ? logInAgain() : refuse(data);
        failures = 0;
        rejections = 0;
        listeners[event.type]?.(data, lastId);
        if (controller.signal.aborted) return true;
      }
      return false;
    } finally {
      clearTimeout(timer);
    }
  }

  /** The second rejected request has renewed an expired session; after a third, the user has to log in. */
  function logInAgain() {
    rejections += 1;
    if (rejections < 3) return false;
    logIn();
    return end("refused");
  }

  /** Returns whether the refusal is final. Overload and outages pass by themselves. */
  function refuse(problem) {
    if (problem.status >= 500 || problem.status === 429) return false;
    return end(problem.reason === "CURSOR_EXPIRED" ? "gone" : "refused", problem);
  }

  function end(how, problem) {
    if (how === "ended") close();
    else set("ended");
    ends[how]?.(problem);
    return true;
  }

  function wait() {
    const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** failures);
    failures += 1;
    set("reconnecting");
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, longest * (0.5 + Math.random() / 2));
      controller.signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
    });
  }

  function set(state) {
    if (controller.signal.aborted) return;
    open.set(stream, state);
    show();
  }

  function close() {
    controller.abort();
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

addEventListener("pagehide", () => {
  for (const stream of [...open.keys()]) stream.close();
});
