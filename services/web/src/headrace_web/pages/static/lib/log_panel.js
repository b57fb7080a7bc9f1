// The log of a job: a panel that appears with its first line and follows new lines.

import { appendAtEnd, fill, h } from "./dom.js";
import { clock } from "./format.js";
import { eachFrame, follow } from "./live.js";
import { button, notifyError } from "./ui.js";

// Old lines of a long log are dropped from the page; the job keeps them.
const MAX_LINES = 5000;
const LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];

/** The log panel of a job. `element` is hidden until the job has logged a line. */
export class LogPanel {
  constructor(jobId) {
    this.jobId = jobId;
    this.attempts = new Set();
    this.lines = h("div.log", { tabindex: "0", role: "log", "aria-labelledby": "log" });
    this.attempt = h("select", { "aria-label": "Attempt", hidden: true, on: { change: () => this.filter() } });
    this.level = h("select", { "aria-label": "Lowest level", on: { change: () => this.filter() } },
      LEVELS.map((level, rank) => h("option", { value: rank }, level)));
    fill(this.attempt, h("option", { value: "" }, "All attempts"));
    this.element = h("section.panel.wide", { "aria-labelledby": "log", hidden: true },
      h("div.row", {}, h("h2", { id: "log" }, "Log"), h("span.space"), this.attempt, this.level,
        button("Download", () => this.download())),
      this.lines);
  }

  /** Shows the stored lines and then new ones, until the job has ended. Clears earlier lines. */
  follow() {
    this.stream?.close();
    this.frames?.cancel();
    fill(this.lines);
    this.frames = eachFrame((lines) => this.add(lines));
    this.stream = follow(`/v1/jobs/${encodeURIComponent(this.jobId)}/logs`, { line: this.frames.add }, { refused: notifyError });
  }

  add(lines) {
    this.element.hidden = false;
    const rows = lines.map(lineRow);
    for (const line of lines) this.addAttempt(line.attempt);
    for (const row of rows) row.hidden = !this.shows(row);
    appendAtEnd(this.lines, rows, MAX_LINES);
  }

  addAttempt(number) {
    if (this.attempts.has(number)) return;
    this.attempts.add(number);
    this.attempt.append(h("option", { value: number }, `Attempt ${number}`));
    this.attempt.hidden = this.attempts.size < 2;
  }

  shows(row) {
    return (!this.attempt.value || row.dataset.attempt === this.attempt.value) && Number(row.dataset.rank) >= Number(this.level.value);
  }

  filter() {
    for (const row of this.lines.children) row.hidden = !this.shows(row);
  }

  download() {
    const shown = [...this.lines.children].filter((row) => !row.hidden).map((row) => row.dataset.text);
    const url = URL.createObjectURL(new Blob([`${shown.join("\n")}\n`], { type: "text/plain" }));
    h("a", { href: url, download: `${this.jobId}.log` }).click();
    URL.revokeObjectURL(url);
  }
}

function lineRow(line) {
  const level = (line.level || "INFO").replace("JOB_LOG_LEVEL_", "");
  const fields = Object.entries(line.fields || {}).map(([name, value]) => ({ name, text: typeof value === "string" ? value : JSON.stringify(value) }));
  const details = fields.map(({ name, text }) => (text.includes("\n") ? `\n${text}` : ` ${name}=${text}`)).join("");
  const text = `${line.logTime} ${level} ${line.logger || ""}: ${line.message || ""}${details}`;
  return h("div.line", { data: { attempt: line.attempt, rank: Math.max(0, LEVELS.indexOf(level)), level, text } },
    h("time", { title: line.logTime }, clock(line.logTime)), " ", h("strong", {}, level), " ",
    h("span.muted", {}, line.logger || ""), " ", line.message || "", details ? h("span.fields", {}, details) : null);
}
