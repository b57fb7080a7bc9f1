// Acts on many jobs with few calls at a time, shows the progress and can be stopped.

import { get, post } from "./api.js";
import { fill, h } from "./dom.js";
import { number } from "./format.js";
import { button } from "./ui.js";

const IN_FLIGHT = 8;
const PAGE_SIZE = 500;
const SHOWN_ERRORS = 20;

/**
 * Cancels or retries jobs in a dialog.
 *
 * @param {Object} options
 * @param {"cancel"|"retry"} options.verb
 * @param {string} options.reason The reason for the events of the jobs.
 * @param {string[]|null} options.ids The jobs; null for all that match the filter.
 * @param {string} options.filter The filter, if `ids` is null.
 * @returns {Promise<void>} Ends when the user closes the dialog.
 */
export function actOnAll({ verb, reason, ids, filter }) {
  const counts = { done: 0, failed: 0, total: ids?.length ?? 0 };
  const errors = new Map();
  let stopped = false;
  const bar = h("progress", { "aria-label": "Progress" });
  const text = h("p", { role: "status" });
  const list = h("ul");
  const stop = button("Stop", () => { stopped = true; });
  const close = button("Close", () => dialog.close(), { disabled: true });
  const dialog = h("dialog", { "aria-label": `${verb} jobs`, on: { cancel: (event) => { if (close.disabled) event.preventDefault(); } } },
    h("h2", {}, verb === "cancel" ? "Cancel jobs" : "Retry jobs"), bar, text, list, h("div.actions", {}, stop, close));
  document.body.append(dialog);
  dialog.showModal();
  run().finally(() => { stop.disabled = true; close.disabled = false; close.focus(); show(true); });
  return new Promise((resolve) => dialog.addEventListener("close", () => { dialog.remove(); resolve(); }));

  async function run() {
    for await (const page of pages()) {
      const waiting = [...page];
      await Promise.all(Array.from({ length: IN_FLIGHT }, async () => {
        while (waiting.length && !stopped) await act(waiting.pop());
      }));
      if (stopped) return;
    }
  }

  /** Yields the ids in pages. Jobs that are acted on may leave the filter; tokens keep the place. */
  async function* pages() {
    if (ids) {
      yield ids;
      return;
    }
    let pageToken = "";
    do {
      const page = await get("/v1/jobs", { filter, pageSize: PAGE_SIZE, pageToken });
      counts.total += (page.jobs || []).length;
      yield (page.jobs || []).map((job) => job.id);
      pageToken = page.nextPageToken;
    } while (pageToken && !stopped);
  }

  async function act(id) {
    try {
      await post(`/v1/jobs/${id}:${verb}`, { reason });
      counts.done += 1;
    } catch (error) {
      counts.failed += 1;
      errors.set(error.message, (errors.get(error.message) || 0) + 1);
    }
    show(false);
  }

  function show(ended) {
    const { done, failed, total } = counts;
    bar.max = Math.max(1, total);
    bar.value = done + failed;
    const end = ended ? (stopped ? "Stopped. " : "Finished. ") : "";
    text.textContent = `${end}${number(done)} of ${number(total)} done${failed ? `, ${number(failed)} refused` : ""}.`;
    fill(list, [...errors].slice(0, SHOWN_ERRORS).map(([message, count]) => h("li.error", {}, `${number(count)} × ${message}`)));
  }
}
