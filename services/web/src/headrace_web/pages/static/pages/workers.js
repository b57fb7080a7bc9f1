// The workers: their slots, what they run, and whether they drain.

import { fill, h, reconcile } from "../lib/dom.js";
import { number } from "../lib/format.js";
import { follow } from "../lib/live.js";
import { empty, notifyError, timeMark } from "../lib/ui.js";

/** Shows all workers, live. */
export async function start(content) {
  const list = h("div.panels");
  const note = h("div");
  fill(content, h("div.heading", {}, h("h1", {}, "Workers")), list, note);
  follow("/feed/workers", {
    workers: ({ workers = [] }) => {
      reconcile(list, workers, (worker) => worker.id, createPanel, fillPanel);
      fill(note, workers.length ? null : empty("No worker is registered.", "Start one with `python -m headrace_worker` or `headrace up`."));
    },
  }, { refused: notifyError });
}

function createPanel(worker) {
  const panel = h("section.panel.wide");
  fillPanel(panel, worker);
  return panel;
}

function fillPanel(panel, worker) {
  const status = !worker.live ? "lost" : worker.draining ? "draining" : "live";
  panel.setAttribute("aria-label", `Worker ${worker.name}`);
  fill(panel,
    h("div.row", {}, h("h2", {}, worker.name), h("span.chip", {}, status), h("code", {}, worker.id)),
    h("div.row", {},
      h("meter.grow", { min: 0, max: worker.slots, value: worker.busySlots || 0, "aria-label": "Busy slots" }),
      h("span", {}, `${number(worker.busySlots)} of ${number(worker.slots)} slots busy`)),
    h("dl.facts", {},
      fact("Queues", (worker.queues || []).join(", ") || "all"),
      fact("Types", (worker.types || []).join(", ")),
      fact("Tenants", (worker.tenants || []).join(", ") || "all"),
      fact("Started", timeMark(worker.startTime)),
      fact("Last heartbeat", timeMark(worker.heartbeatTime))),
    runningJobs(worker));
}

function fact(title, value) {
  return [h("dt", {}, title), h("dd", {}, value)];
}

function runningJobs({ runningJobs: jobs = [], busySlots = 0 }) {
  if (!jobs.length) return null;
  return [
    h("h3", {}, "Running jobs"),
    h("ul.running", {}, jobs.map((job) => h("li", {},
      h("a", { href: `/jobs/${job.jobId}` }, job.type), ` in ${job.queue}, attempt ${job.attempt}, since `, timeMark(job.startTime)))),
    busySlots > jobs.length ? h("p.hint", {}, `and ${number(busySlots - jobs.length)} more`) : null,
  ];
}
