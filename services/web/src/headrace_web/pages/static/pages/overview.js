// The state of the tenant at a glance, live.

import { call, withQuery } from "../lib/api.js";
import { lineChart } from "../lib/charts.js";
import { fill, h, reconcile } from "../lib/dom.js";
import { compact, duration, number, rate, seconds, state, STATES } from "../lib/format.js";
import { follow } from "../lib/live.js";
import { empty, notifyError, table, timeMark } from "../lib/ui.js";

const SHOWN_QUEUES = 10;
const RANGES = { hour: "3600s", day: "86400s" };

/** Shows the overview. */
export async function start(content) {
  const page = new OverviewPage();
  fill(content, page.elements());
  follow("/feed/overview", { overview: (overview) => page.show(overview) }, { refused: notifyError });
  await page.showHistory("hour");
}

class OverviewPage {
  elements() {
    const part = (name, element) => (this[name] = element);
    const queues = table("Queues", ["Queue", { title: "Waiting", number: true }, { title: "Running", number: true }, "Oldest waiting", { title: "Workers", number: true }, { title: "Slots", number: true }]);
    const failing = table("Failing types", ["Type", "Error", { title: "Attempts", number: true }, "Last", "Job"]);
    this.queueRows = queues.body;
    this.failingRows = failing.body;
    return [
      h("div.heading", {}, h("h1", {}, "Overview")),
      part("states", h("div.figures", { role: "group", "aria-label": "Jobs by state" })),
      part("figures", h("div.figures", { role: "group", "aria-label": "Throughput and workers" })),
      h("div.panels", {},
        h("section.panel.wide", { "aria-labelledby": "history" },
          h("div.row", {}, h("h2", { id: "history" }, "History"), h("span.grow"),
            ["hour", "day"].map((range) => h("button", { type: "button", data: { range }, on: { click: () => this.showHistory(range) } }, `Last ${range}`))),
          part("charts", h("div.panels"))),
        h("section.panel.wide", { "aria-labelledby": "queues" }, h("h2", { id: "queues" }, h("a", { href: "/queues" }, "Queues")), queues.element),
        h("section.panel.wide", { "aria-labelledby": "failing" }, h("h2", { id: "failing" }, "Failing types, last five minutes"), failing.element, part("noFailures", h("div")))),
    ];
  }

  show(overview) {
    const counts = Object.fromEntries((overview.states || []).map((each) => [state(each.state), each.jobs]));
    reconcile(this.states, STATES.map((name) => [name, counts[name] || 0]), ([name]) => name, stateFigure, (element, [, count]) => setFigure(element, compact(count), count));
    reconcile(this.figures, figuresOf(overview), ([title]) => title, createFigure, (element, [, value, hint]) => setFigure(element, value, hint));
    const queues = [...(overview.queues || [])].sort((a, b) => waiting(b) - waiting(a)).slice(0, SHOWN_QUEUES);
    reconcile(this.queueRows, queues, (queue) => queue.queue, (queue) => fillQueue(h("tr"), queue), fillQueue);
    const failing = overview.failingTypes || [];
    reconcile(this.failingRows, failing, (each) => `${each.type}\n${each.errorType}`, (each) => fillFailing(h("tr"), each), fillFailing);
    const minute = (overview.overviewTime || "").slice(0, 16);
    if (this.minute && minute !== this.minute) this.showHistory(this.range);
    this.minute = minute;
    fill(this.noFailures, failing.length ? null : empty("No attempt has failed in the last five minutes."));
  }

  /** Draws the history of a range, and again whenever a minute is over. */
  async showHistory(range) {
    this.range = range;
    for (const button of document.querySelectorAll("[data-range]")) button.setAttribute("aria-pressed", String(button.dataset.range === range));
    try {
      const { points = [] } = await call("MonitorService/GetHistory", { range: RANGES[range] });
      if (this.range === range) fill(this.charts, historyCharts(points));
    } catch (error) {
      notifyError(error);
    }
  }
}

function historyCharts(points) {
  const times = points.map((point) => new Date(point.startTime));
  const counts = (name) => points.map((point) => Number(point[name] || 0));
  const p95 = (name) => points.map((point) => seconds(point[name]?.p95));
  return [
    lineChart({
      title: "Jobs", times, lines: [
        { name: "submitted", values: counts("submitted"), color: "var(--accent)" }, { name: "succeeded", values: counts("succeeded"), state: "SUCCEEDED" },
        { name: "failed", values: counts("failed"), state: "FAILED" }, { name: "cancelled", values: counts("cancelled"), state: "CANCELLED" },
      ],
    }),
    lineChart({ title: "Wait and run time, p95", times, format: duration, lines: [{ name: "wait", values: p95("wait"), state: "QUEUED" }, { name: "run", values: p95("run"), state: "RUNNING" }] }),
  ];
}

function waiting(queue) {
  return Number(countOf(queue, "QUEUED"));
}

function countOf({ states = [] }, name) {
  return states.find((each) => state(each.state) === name)?.jobs || 0;
}

function stateFigure([name, count]) {
  return h("a.figure", { href: withQuery("/jobs", { filter: `state = ${name}` }), title: number(count) },
    h("strong", {}, compact(count)), h("span.state", { data: { state: name } }, name));
}

function createFigure([title, value, hint]) {
  return h("div.figure", { title: hint }, h("strong", {}, value), h("span", {}, title));
}

function setFigure(element, value, hint) {
  const text = element.querySelector("strong");
  if (text.textContent !== value) text.textContent = value;
  element.title = typeof hint === "number" || /^\d+$/.test(hint) ? number(hint) : hint || "";
}

/** Returns title, value and hint of each figure. */
function figuresOf(overview) {
  const [recent = {}] = overview.rates || [];
  const period = `over the last ${duration(seconds(recent.window))}`;
  const { wait = {}, run = {}, oldestJob } = overview;
  return [
    ["submitted", rate(recent.submitted), period],
    ["started", rate(recent.started), period],
    ["ended", rate((recent.succeeded || 0) + (recent.failed || 0) + (recent.cancelled || 0)), period],
    ["slots busy", `${number(overview.busySlots)} / ${number(overview.slots)}`, `${number(overview.workers)} workers, ${number(overview.drainingWorkers)} draining`],
    ["oldest waiting", oldestJob ? duration((Date.now() - new Date(oldestJob.queueTime)) / 1000) : "–", oldestJob ? `${oldestJob.type} in ${oldestJob.queue}` : "No job waits."],
    ["median wait", duration(seconds(wait.p50)), lastMinute(wait)],
    ["median run time", duration(seconds(run.p50)), lastMinute(run)],
    ["wait, p95", duration(seconds(wait.p95)), lastMinute(wait)],
    ["run time, p95", duration(seconds(run.p95)), lastMinute(run)],
  ];
}

function lastMinute({ count = 0 }) {
  return `${number(count)} attempts of the last minute`;
}

function fillQueue(row, queue) {
  return fill(row,
    h("th", { scope: "row" }, h("a", { href: withQuery("/jobs", { filter: `queue = "${queue.queue}"` }) }, queue.queue)),
    h("td.number", {}, number(waiting(queue))), h("td.number", {}, number(countOf(queue, "RUNNING"))),
    h("td", {}, timeMark(queue.oldestQueueTime)), h("td.number", {}, number(queue.workers)), h("td.number", {}, number(queue.slots)));
}

function fillFailing(row, each) {
  return fill(row,
    h("th", { scope: "row" }, h("a", { href: withQuery("/jobs", { filter: `type = "${each.type}" AND state = FAILED` }) }, each.type)),
    h("td", {}, each.errorType), h("td.number", {}, number(each.attempts)), h("td", {}, timeMark(each.lastTime)),
    h("td.id", {}, each.lastJobId ? h("a", { href: `/jobs/${each.lastJobId}`, title: each.lastJobId }, `…${each.lastJobId.slice(-12)}`) : "–"));
}
