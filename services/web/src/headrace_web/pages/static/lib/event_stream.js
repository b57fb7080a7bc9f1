// Reads server-sent events with fetch, because an EventSource hides the status of a response.

/**
 * Yields the events of a response body, in the format of the HTML standard.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @yields {{type: string, data: string, id: string|null}} `id` is null if the event has none. An
 *   event without data only carries its id.
 */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = blank();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      // A line that ends with \r\n can be cut between the two.
      const text = rest + value;
      const lines = text.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (event.data !== null || event.id !== null) yield { ...event, data: event.data ?? "" };
          event = blank();
        } else {
          addLine(event, line);
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function blank() {
  return { type: "message", data: null, id: null };
}

function addLine(event, line) {
  const colon = line.indexOf(":");
  // A line that begins with a colon is a comment.
  if (colon === 0) return;
  const name = colon < 0 ? line : line.slice(0, colon);
  const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
  if (name === "event") event.type = value;
  else if (name === "id") event.id = value;
  else if (name === "data") event.data = event.data === null ? value : `${event.data}\n${value}`;
}
