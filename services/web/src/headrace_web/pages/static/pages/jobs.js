// The jobs that match a filter. The first page is live; older pages are loaded on request.

import { get, withQuery } from "../lib/api.js";
import { actOnAll } from "../lib/bulk.js";
import { fill, h, reconcile } from "../lib/dom.js";
import { filterForm } from "../lib/filter.js";
import { duration, number, state, STATES } from "../lib/format.js";
import { follow } from "../lib/live.js";
import { can } from "../lib/principal.js";
import { ask, button, empty, field, notifyError, stateMark, table, timeMark } from "../lib/ui.js";
import { deleteView, saveView, savedViews } from "../lib/views.js";

const PAGE_SIZE = 50;

/** Shows the jobs of the filter in the URL. */
export async function start(content) {
  const rights = { cancel: await can("jobs:cancel"), retry: await can("jobs:retry") };
  const known = { queues: [], types: [] };
  const page = new JobsPage(rights, known);
  fill(content, page.elements());
  page.open(new URLSearchParams(location.search).get("filter") || "");
  addEventListener("popstate", () => page.open(new URLSearchParams(location.search).get("filter") || "", { push: false }));
  // Counting millions of jobs takes longer than showing the first page.
  loadNames(known).catch(notifyError);
}

/** Loads the queues and types that exist, for the completion of filters. */
async function loadNames(known) {
  const { queues = [], types = [] } = await get("/v1/stats");
  known.queues = queues.map((each) => each.queue);
  known.types = types.map((each) => each.type);
}

class JobsPage {
  constructor(rights, known) {
    this.rights = rights;
    this.known = known;
    this.filter = "";
    this.live = [];
    this.older = [];
    this.shown = [];
    this.selected = new Set();
    this.allMatching = false;
  }

  elements() {
    this.form = filterForm({ value: "", known: this.known, apply: (filter) => this.open(filter) });
    const selects = this.rights.cancel || this.rights.retry;
    this.selectAll = h("input", { type: "checkbox", "aria-label": "Select all on this page", on: { change: () => this.selectPage() } });
    const columns = ["State", "Type", "Id", "Queue", "Labels", { title: "Attempt", number: true }, "Submitted", { title: "Waited", number: true }, { title: "Ran", number: true }];
    const { element, body } = table("Jobs", selects ? [{ title: this.selectAll }, ...columns] : columns);
    this.body = body;
    this.selects = selects;
    this.note = h("div");
    this.more = button("Load older jobs", () => this.loadOlder(), { hidden: true });
    this.actions = h("div.row", { role: "group", "aria-label": "Actions on selected jobs", hidden: true });
    this.views = h("div.row", { "aria-label": "Views", role: "group" });
    return [
      h("div.heading", {}, h("h1", {}, "Jobs"), h("span.space")),
      this.views,
      this.form.element,
      this.actions,
      h("section.panel", { "aria-label": "Jobs" }, element, this.note, h("div.actions", {}, this.more)),
    ];
  }

  /** Shows the jobs of a filter, and puts the filter into the URL. */
  open(filter, { push = true } = {}) {
    this.filter = filter;
    this.form.set(filter);
    this.live = [];
    this.older = [];
    this.rows = new Map();
    this.shown = [];
    // The rows of this filter have not arrived, so there is nothing to select.
    this.selectAll.disabled = true;
    this.select([]);
    const url = withQuery("/jobs", { filter });
    if (push && url !== location.pathname + location.search) history.pushState(null, "", url);
    this.showViews();
    this.stream?.close();
    this.stream = follow(withQuery("/feed/jobs", { filter, pageSize: PAGE_SIZE }), { jobs: (change) => this.take(change) }, { refused: (problem) => this.reject(problem) });
  }

  /** Applies a message of the feed: the order of the first page and the rows that changed. */
  take({ order = [], jobs = [], nextPageToken = "" }) {
    for (const job of jobs) this.rows.set(job.id, job);
    this.live = order.map((id) => this.rows.get(id)).filter(Boolean);
    this.rows = new Map(this.live.map((job) => [job.id, job]));
    if (!this.older.length) this.nextPageToken = nextPageToken;
    this.show();
  }

  reject(problem) {
    this.stream.close();
    this.form.showError((problem.violations || []).map((each) => each.description).join(" ") || problem.detail || problem.title);
    this.live = [];
    this.show();
  }

  async loadOlder() {
    this.more.disabled = true;
    try {
      const page = await get("/v1/jobs", { filter: this.filter, pageSize: PAGE_SIZE, pageToken: this.nextPageToken });
      this.older.push(...(page.jobs || []));
      this.nextPageToken = page.nextPageToken || "";
      this.show();
    } catch (error) {
      notifyError(error);
    } finally {
      this.more.disabled = false;
    }
  }

  show() {
    const shown = new Set(this.live.map((job) => job.id));
    const jobs = [...this.live, ...this.older.filter((job) => !shown.has(job.id))];
    this.shown = jobs;
    this.selectAll.disabled = !jobs.length;
    reconcile(this.body, jobs, (job) => job.id, (job) => this.createRow(job), (row, job) => this.updateRow(row, job));
    fill(this.note, jobs.length ? null : empty("No job matches.", this.filter ? "Change or clear the filter." : "Submit one on the page Submit, or with `headrace submit`."));
    this.more.hidden = !this.nextPageToken;
  }

  createRow(job) {
    const row = h("tr");
    row.job = job;
    this.fillRow(row, job);
    return row;
  }

  updateRow(row, job) {
    if (row.job.seq === job.seq && row.job.updateTime === job.updateTime) return;
    row.job = job;
    this.fillRow(row, job);
    row.classList.remove("changed");
    requestAnimationFrame(() => row.classList.add("changed"));
  }

  fillRow(row, job) {
    const check = this.selects ? h("td", {}, h("input", {
      type: "checkbox", checked: this.selected.has(job.id), "aria-label": `Select job ${job.id}`, on: { change: (event) => this.toggle(job.id, event.target.checked) },
    })) : null;
    fill(row, check,
      h("td", {}, stateMark(state(job.state))), h("td", {}, job.type),
      h("td.id", {}, h("a", { href: `/jobs/${job.id}`, title: job.id }, shortId(job.id))),
      h("td", {}, job.queue),
      h("td", {}, Object.entries(job.labels || {}).slice(0, 3).map(([key, value]) => h("span.label", {}, `${key}=${value}`))),
      h("td.number", {}, job.attempt || "–"), h("td", {}, timeMark(job.createTime)),
      h("td.number", {}, duration(between(job.queueTime || job.createTime, job.startTime))),
      h("td.number", {}, duration(between(job.startTime, job.endTime))));
    row.setAttribute("aria-selected", String(this.selected.has(job.id)));
  }

  toggle(id, on) {
    if (on) this.selected.add(id);
    else this.selected.delete(id);
    this.allMatching = false;
    this.showSelection();
  }

  selectPage() {
    this.select(this.selectAll.checked ? this.shown.map((job) => job.id) : []);
  }

  select(ids) {
    this.selected = new Set(ids);
    this.allMatching = false;
    for (const row of this.body?.children || []) {
      const box = row.querySelector("input[type=checkbox]");
      if (box) box.checked = this.selected.has(row.dataset.key);
    }
    this.showSelection();
  }

  showSelection() {
    if (!this.selects) return;
    for (const row of this.body.children) row.setAttribute("aria-selected", String(this.selected.has(row.dataset.key)));
    const count = this.selected.size;
    this.selectAll.checked = count > 0 && count === this.shown.length;
    this.selectAll.indeterminate = count > 0 && !this.selectAll.checked;
    this.actions.hidden = !count;
    const text = this.allMatching ? "All jobs that match the filter" : `${number(count)} selected`;
    fill(this.actions, h("strong", { role: "status" }, text),
      this.allMatching ? null : button("Select all that match", () => { this.allMatching = true; this.showSelection(); }),
      this.rights.cancel ? button("Cancel…", () => this.act("cancel"), { kind: "danger" }) : null,
      this.rights.retry ? button("Retry…", () => this.act("retry")) : null,
      button("Clear selection", () => this.select([])));
  }

  async act(verb) {
    const target = this.allMatching ? "all jobs that match the filter" : `${number(this.selected.size)} jobs`;
    const form = await ask({
      title: `${verb === "cancel" ? "Cancel" : "Retry"} ${target}?`, action: verb === "cancel" ? "Cancel jobs" : "Retry jobs", kind: verb === "cancel" ? "danger" : "primary",
      text: "Jobs in a state that does not allow it are left as they are.",
      fields: [field("Reason", h("input", { name: "reason", maxlength: 500 }), "Optional; shown in the events.")],
    });
    if (!form) return;
    await actOnAll({ verb, reason: form.get("reason"), ids: this.allMatching ? null : [...this.selected], filter: this.filter });
    this.select([]);
  }

  showViews() {
    const chips = [["All", ""], ...STATES.map((name) => [name, `state = ${name}`])].map(([title, filter]) => this.viewLink(title, filter));
    const saved = savedViews().map(({ name, filter }) => [this.viewLink(name, filter), this.filter === filter ? button("Delete view", () => { deleteView(name); this.showViews(); }) : null]);
    const isNew = this.filter && ![...savedViews().map((view) => view.filter), ...STATES.map((name) => `state = ${name}`)].includes(this.filter);
    fill(this.views, chips, saved, isNew ? button("Save view…", () => this.saveView()) : null);
  }

  viewLink(title, filter) {
    return h("a.chip", {
      href: withQuery("/jobs", { filter }), "aria-current": this.filter === filter ? "true" : null,
      on: { click: (event) => { if (event.ctrlKey || event.metaKey) return; event.preventDefault(); this.open(filter); } },
    }, title);
  }

  async saveView() {
    const form = await ask({ title: "Save this filter as a view", action: "Save", fields: [field("Name", h("input", { name: "name", required: true, maxlength: 60 }), "Kept in this browser. The URL of this page works everywhere.")] });
    if (!form) return;
    saveView(form.get("name"), this.filter);
    this.showViews();
  }
}

function between(start, end) {
  return start && end ? Math.max(0, (new Date(end) - new Date(start)) / 1000) : null;
}

/** Returns the end of an id, because ids that are made at the same time begin alike. */
function shortId(id) {
  return `…${id.slice(-12)}`;
}
