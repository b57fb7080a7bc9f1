// The life of a job as a bar to scale: waits, attempts, delays between retries.

import { fill, h } from "./dom.js";
import { clock, duration, eventType, state } from "./format.js";

const TITLES = {
  SCHEDULED: "Waits for its schedule time",
  QUEUED: "Waits for a worker",
  RUNNING: "Runs",
  RETRYING: "Waits for the next attempt",
};
const TERMINAL = new Set(["SUCCEEDED", "FAILED", "CANCELLED"]);

/**
 * Returns the spans of a job's life. Each begins with an event that changes the state or the attempt
 * and ends with the next one; the last span of a live job has no end.
 *
 * @param {Object[]} events The events of the job in order.
 * @returns {{state: string, attempt: number, start: Date, end: Date|null, outcome: string}[]}
 *   `outcome` is the type of the event that ends the span.
 */
export function spansOf(events) {
  const spans = [];
  let current = null;
  for (const event of events) {
    const name = state(event.state);
    if (current && current.state === name && current.attempt === (event.attempt || 0)) continue;
    const time = new Date(event.eventTime);
    if (current) {
      current.end = time;
      current.outcome = eventType(event.type);
    }
    current = null;
    if (TERMINAL.has(name)) continue;
    current = { state: name, attempt: event.attempt || 0, start: time, end: null, outcome: "" };
    spans.push(current);
  }
  return spans;
}

/**
 * Draws the spans into an element.
 *
 * @param {Element} element
 * @param {Object[]} events The events of the job in order.
 * @param {Date} now The end of a span that has not ended.
 */
export function drawTimeline(element, events, now = new Date()) {
  const spans = spansOf(events);
  if (!spans.length) return;
  const first = spans[0].start;
  const last = spans.at(-1).end || now;
  const total = Math.max(1, last - first);
  fill(element,
    h("div.timeline", { "aria-hidden": "true" }, spans.map((span) => h("span", {
      data: { state: span.state },
      title: `${titleOf(span)}: ${lengthOf(span, now)}`,
      style: {
        left: `${((span.start - first) / total) * 100}%`,
        width: `${(((span.end || now) - span.start) / total) * 100}%`,
      },
    }))),
    h("ol.spans", {}, spans.map((span) => h("li", { data: { state: span.state } },
      h("span.state", { data: { state: span.state } }, titleOf(span)),
      h("span", {}, lengthOf(span, now)),
      h("small.none", {}, `from ${clock(span.start)}`, span.outcome ? `, ended by ${span.outcome}` : "")))));
}

function titleOf(span) {
  const title = TITLES[span.state] || span.state;
  return span.state === "RUNNING" ? `${title} (attempt ${span.attempt})` : title;
}

function lengthOf(span, now) {
  return duration(((span.end || now) - span.start) / 1000);
}
