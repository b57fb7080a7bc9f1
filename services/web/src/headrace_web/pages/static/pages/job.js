// A job: its timeline, events, progress, output, log, result, error, payload and options, all live.

import { get, post, withQuery } from "../lib/api.js";
import { appendAtEnd, fill, h, setText } from "../lib/dom.js";
import { clock, dateTime, duration, eventType, seconds, state } from "../lib/format.js";
import { eachFrame, follow } from "../lib/live.js";
import { LogPanel } from "../lib/log_panel.js";
import { can } from "../lib/principal.js";
import { drawTimeline } from "../lib/timeline.js";
import { ask, button, copyButton, field, loading, notify, notifyError, stateMark, timeMark } from "../lib/ui.js";

const TERMINAL = new Set(["SUCCEEDED", "FAILED", "CANCELLED"]);
const EVENT_TYPES = [
  "submitted", "due", "started", "progressed", "output", "succeeded", "retry_scheduled", "failed", "interrupted",
  "worker_lost", "cancel_requested", "cancelled", "expired", "requeued",
];
// Old pieces of a long output are dropped from the page; the job keeps them.
const MAX_OUTPUT_PIECES = 5000;

/** Shows the job with an id. */
export async function start(content, { id }) {
  loading(content);
  const view = new JobView(id, await get(`/v1/jobs/${encodeURIComponent(id)}`, { view: "FULL" }));
  view.rights = {
    cancel: await can("jobs:cancel"), retry: await can("jobs:retry"), submit: await can("jobs:submit"),
    payload: await can("payload:read"),
  };
  fill(content, view.elements());
  document.title = `${view.job.type} ${id.slice(0, 8)} · Headrace`;
  view.show();
  view.follow();
}

class JobView {
  constructor(id, job) {
    this.id = id;
    this.job = job;
    this.events = [];
    this.parts = {};
    this.log = new LogPanel(id);
  }

  elements() {
    const part = (name, element) => (this.parts[name] = element);
    return [
      h("div.heading", {},
        h("h1", {}, this.job.type),
        part("state", h("span")),
        h("code", {}, this.id),
        copyButton(this.id, "Copy id"),
        h("span.space"),
        part("actions", h("div.row"))),
      h("div.panels", {},
        part("progress", h("section.panel.wide", { "aria-label": "Progress", hidden: true })),
        h("section.panel.wide", { "aria-labelledby": "timeline" }, h("h2", { id: "timeline" }, "Timeline"), part("timeline", h("div"))),
        part("error", h("section.panel.wide", { "aria-label": "Error", hidden: true })),
        this.documentPanel("Result", "result"),
        this.outputPanel(),
        h("section.panel", { "aria-labelledby": "details" }, h("h2", { id: "details" }, "Details"), part("details", h("dl.facts"))),
        this.documentPanel("Payload", "payload"),
        this.log.element,
        h("section.panel.wide", { "aria-labelledby": "events" }, h("h2", { id: "events" }, "Events"),
          h("div.scroll", { tabindex: "0", role: "group", "aria-label": "Events" },
            h("table", {}, h("thead", {}, h("tr", {}, ["Seq", "Time", "Event", "State", "Attempt", "By", "Detail"].map((title) => h("th", { scope: "col" }, title)))),
              part("events", h("tbody")))))),
    ];
  }

  documentPanel(title, name) {
    const heading = `document-${name}`;
    this.parts[name] = h("pre", { tabindex: "0", "aria-labelledby": heading });
    return h("section.panel", { "aria-labelledby": heading }, h("h2", { id: heading }, title), this.parts[name]);
  }

  outputPanel() {
    this.parts.output = h("pre", { tabindex: "0", "aria-labelledby": "output" });
    this.parts.outputPanel = h("section.panel", { "aria-labelledby": "output", hidden: true },
      h("h2", { id: "output" }, "Output"), this.parts.output);
    return this.parts.outputPanel;
  }

  follow() {
    this.frames = eachFrame((events) => this.addEvents(events));
    this.stream = follow(`/v1/jobs/${encodeURIComponent(this.id)}/events`, Object.fromEntries(EVENT_TYPES.map((type) => [type, this.frames.add])), {
      ended: () => this.waitForRequeue(),
      gone: () => notify("The events of this job are no longer stored."),
      refused: notifyError,
    });
    if (this.rights.payload) this.log.follow();
    this.clock = setInterval(() => this.showTimeline(), 1000);
  }

  /** Follows a job that has ended, in case it is requeued. */
  waitForRequeue() {
    const restart = async () => {
      await this.reload();
      if (TERMINAL.has(state(this.job.state))) return;
      this.stream.close();
      this.restart();
    };
    const check = () => restart().catch(notifyError);
    this.stream = follow(withQuery("/v1/events", { jobId: this.id }), { caught_up: check, requeued: check }, { refused: notifyError });
  }

  restart() {
    this.stream.close();
    this.frames.cancel();
    clearInterval(this.clock);
    fill(this.parts.events);
    fill(this.parts.output);
    this.events = [];
    this.follow();
  }

  addEvents(events) {
    for (const event of events) {
      const type = eventType(event.type);
      if (type === "OUTPUT") this.addOutput(event);
      else if (type === "PROGRESSED") this.job.progress = event.progress;
      else this.parts.events.append(eventRow(event));
      this.events.push(event);
    }
    const last = events.at(-1);
    if (!last) return;
    this.job.state = last.state;
    this.job.attempt = last.attempt;
    this.show();
    if (TERMINAL.has(state(last.state))) this.reload().catch(notifyError);
  }

  /** Reads the result, the error and the times of a job that has ended. */
  async reload() {
    this.job = await get(`/v1/jobs/${encodeURIComponent(this.id)}`, { view: "FULL" });
    this.show();
  }

  addOutput(event) {
    this.parts.outputPanel.hidden = false;
    appendAtEnd(this.parts.output, [outputText(event)], MAX_OUTPUT_PIECES);
  }

  show() {
    const { job } = this;
    fill(this.parts.state, stateMark(state(job.state)));
    this.showActions();
    this.showProgress();
    this.showTimeline();
    this.showError();
    setText(this.parts.result, documentText(job, "result"));
    setText(this.parts.payload, documentText(job, "payload"));
    fill(this.parts.details, facts(job));
  }

  showActions() {
    const name = state(this.job.state);
    const actions = [];
    if (!TERMINAL.has(name) && this.rights.cancel) {
      const requested = Boolean(this.job.cancelRequestTime);
      actions.push(button(requested ? "Cancel requested" : "Cancel", () => this.act("cancel"), { kind: "danger", disabled: requested }));
    }
    if (["FAILED", "CANCELLED"].includes(name) && this.rights.retry) actions.push(button("Retry", () => this.act("retry")));
    if (this.rights.submit) actions.push(h("a.button", { href: withQuery("/submit", { like: this.id }) }, TERMINAL.has(name) ? "Edit and submit again" : "Submit one like it"));
    // The button that has the focus stays, unless its text changes.
    const texts = actions.map((action) => action.textContent).join("|");
    if (this.parts.actions.dataset.texts === texts) return;
    this.parts.actions.dataset.texts = texts;
    fill(this.parts.actions, actions);
  }

  async act(verb) {
    const title = verb === "cancel" ? "Cancel this job?" : "Retry this job?";
    const form = await ask({ title, action: verb === "cancel" ? "Cancel the job" : "Retry", kind: verb === "cancel" ? "danger" : "primary", fields: [field("Reason", h("input", { name: "reason", maxlength: 500 }), "Optional; shown in the events.")] });
    if (!form) return;
    try {
      const job = await post(`/v1/jobs/${encodeURIComponent(this.id)}:${verb}`, { reason: form.get("reason") });
      Object.assign(this.job, { state: job.state, cancelRequestTime: job.cancelRequestTime });
      if (verb === "retry") this.restart();
      this.show();
    } catch (error) {
      notifyError(error);
    }
  }

  showProgress() {
    const { progress } = this.job;
    this.parts.progress.hidden = !progress;
    if (!progress) return;
    const fraction = Number(progress.fraction || 0);
    fill(this.parts.progress,
      h("h2", {}, `Progress ${Math.round(fraction * 100)} %`),
      h("progress", { value: fraction, max: 1, "aria-label": "Progress" }),
      progress.message ? h("p", {}, progress.message) : null,
      progress.counters ? h("pre", {}, json(progress.counters)) : null);
  }

  showTimeline() {
    drawTimeline(this.parts.timeline, this.events);
    if (TERMINAL.has(state(this.job.state))) clearInterval(this.clock);
  }

  showError() {
    const { error } = this.job;
    this.parts.error.hidden = !error;
    if (!error) return;
    fill(this.parts.error,
      h("h2", {}, "Error"),
      h("p", {}, h("strong", {}, error.type), " ", isWithheld(this.job, "error") ? WITHHELD : error.message),
      error.stackTrace ? h("pre", { tabindex: "0", "aria-label": "Stack trace" }, error.stackTrace) : null);
  }
}

const WITHHELD = "Withheld: your credential lacks payload:read.";

function isWithheld(job, name) {
  return (job.withheldFields || []).some((path) => path === name || path.startsWith(`${name}.`));
}

function documentText(job, name) {
  if (isWithheld(job, name)) return WITHHELD;
  return job[name] === undefined ? "–" : json(job[name]);
}

function json(value) {
  return JSON.stringify(value, null, 2);
}

function outputText(event) {
  if ((event.withheldFields || []).length) return `${WITHHELD}\n`;
  return typeof event.output === "string" ? event.output : `${JSON.stringify(event.output)}\n`;
}

function eventRow(event) {
  const detail = event.error ? `${event.error.type || ""}: ${event.error.message || ""}` : event.reason || (event.scheduleTime ? `next at ${dateTime(event.scheduleTime)}` : "");
  return h("tr", {},
    h("td.number", {}, event.seq), h("td", { title: event.eventTime }, clock(event.eventTime)), h("td", {}, eventType(event.type)),
    h("td", {}, stateMark(state(event.state))), h("td.number", {}, event.attempt || "–"), h("td", {}, event.principal || "–"), h("td", {}, detail || "–"));
}

function facts(job) {
  const link = (filter, text) => h("a", { href: withQuery("/jobs", { filter }) }, text);
  const rows = [
    ["Queue", link(`queue = "${job.queue}"`, job.queue)],
    ["Type", link(`type = "${job.type}"`, job.type)],
    ["Priority", job.priority || 0],
    ["Attempt", job.attempt || "none yet"],
    ["Submitted", [timeMark(job.createTime), job.submittedBy ? ` by ${job.submittedBy}` : ""]],
    job.scheduleTime && job.scheduleTime !== job.createTime ? ["Scheduled for", timeMark(job.scheduleTime)] : null,
    ["Started", timeMark(job.startTime)],
    ["Ended", timeMark(job.endTime)],
    ["Timeout", job.timeout ? duration(seconds(job.timeout)) : "default of the handler"],
    job.deadline ? ["Deadline", timeMark(job.deadline)] : null,
    job.batchId ? ["Batch", link(`batch_id = "${job.batchId}"`, job.batchId)] : null,
    job.requestId ? ["Idempotency key", job.requestId] : null,
    job.workerId ? ["Worker", h("a", { href: "/workers" }, job.workerId)] : null,
    job.correlationId ? ["Correlation id", job.correlationId] : null,
    ...Object.entries(job.labels || {}).map(([key, value]) => [`Label ${key}`, link(`labels.${key} = "${value}"`, value)]),
  ];
  return rows.filter(Boolean).map(([title, value]) => [h("dt", {}, title), h("dd", {}, value)]);
}
