// The queues: how many jobs wait, for how long, and which workers serve them.

import { withQuery } from "../lib/api.js";
import { fill, h, reconcile } from "../lib/dom.js";
import { number, state, STATES } from "../lib/format.js";
import { follow } from "../lib/live.js";
import { empty, notifyError, table, timeMark } from "../lib/ui.js";

const ACTIVE = STATES.slice(0, 4);

/** Shows all queues, live. */
export async function start(content) {
  const { element, body } = table("Queues", [
    "Queue", ...ACTIVE.map((name) => ({ title: name.toLowerCase(), number: true })),
    { title: "failed", number: true }, "Oldest waiting", { title: "Workers", number: true }, { title: "Slots", number: true },
  ]);
  const note = h("div");
  fill(content, h("div.heading", {}, h("h1", {}, "Queues")), h("section.panel", { "aria-label": "Queues" }, element, note));
  follow("/feed/overview", {
    overview: ({ queues = [] }) => {
      reconcile(body, queues, (queue) => queue.queue, createRow, fillRow);
      fill(note, queues.length ? null : empty("There is no queue yet.", "A queue exists while jobs of it are stored or a worker serves it."));
    },
  }, { refused: notifyError });
}

function createRow(queue) {
  const row = h("tr");
  fillRow(row, queue);
  return row;
}

function fillRow(row, queue) {
  const counts = Object.fromEntries((queue.states || []).map((each) => [state(each.state), each.jobs]));
  const link = (name) => h("a", { href: withQuery("/jobs", { filter: `queue = "${queue.queue}" AND state = ${name}` }) }, number(counts[name]));
  fill(row,
    h("th", { scope: "row" }, h("a", { href: withQuery("/jobs", { filter: `queue = "${queue.queue}"` }) }, queue.queue)),
    [...ACTIVE, "FAILED"].map((name) => h("td.number", {}, counts[name] ? link(name) : "0")),
    h("td", {}, timeMark(queue.oldestQueueTime)),
    h(`td.number${counts.QUEUED && !queue.workers ? ".error" : ""}`, { title: counts.QUEUED && !queue.workers ? "Jobs wait, but no live worker runs them." : null }, number(queue.workers)),
    h("td.number", {}, number(queue.slots)));
}
