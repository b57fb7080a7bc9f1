// The parts that pages share: states, times, messages, dialogs, tables, copy buttons.

import { fill, h } from "./dom.js";
import { dateTime, relative } from "./format.js";

/** Returns the mark of a job's state. It has a symbol as well, because color alone is not enough. */
export function stateMark(name) {
  return h("span.state", { data: { state: name } }, name);
}

/** Returns a time as its distance from now; the exact time is shown on hover. */
export function timeMark(text) {
  return text
    ? h("time", { datetime: text, title: dateTime(text), data: { relative: "" } }, relative(text))
    : h("span.none", {}, "–");
}

// The distances change without new data.
setInterval(() => {
  for (const mark of document.querySelectorAll("time[data-relative]")) {
    const text = relative(mark.dateTime);
    if (mark.textContent !== text) mark.textContent = text;
  }
}, 1000);

/** Shows a message at the bottom of the page; screen readers announce it. */
export function notify(text, kind = "info") {
  const area = document.getElementById("messages");
  const message = h("p.message", { data: { kind } }, text,
    h("button.plain", { type: "button", "aria-label": "Close", on: { click: () => message.remove() } }, "×"));
  area.append(message);
  if (kind !== "error") setTimeout(() => message.remove(), 6000);
}

/** Shows an error or a problem document as a message. Cancelled calls are not shown. */
export function notifyError(error) {
  if (!error || error.name === "AbortError" || error.status === 401) return;
  notify(error.message || error.detail || error.title || String(error), "error");
}

/** Returns a section that explains why it has no content and what to do. */
export function empty(title, ...hint) {
  return h("div.empty", {}, h("p", {}, h("strong", {}, title)), hint.length ? h("p", {}, hint) : null);
}

/** Returns a button. `kind` is "primary", "danger" or "". */
export function button(text, onClick, { kind = "", ...attributes } = {}) {
  return h(`button${kind ? `.${kind}` : ""}`, { type: "button", on: { click: onClick }, ...attributes }, text);
}

/** Returns a button that copies a text. */
export function copyButton(text, label = "Copy") {
  const element = button(label, async () => {
    element.textContent = await copy(text) ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { element.textContent = label; }, 1500);
  });
  return element;
}

/** Copies a text. Returns whether that was possible. */
async function copy(text) {
  // Browsers have a clipboard only on loopback and over HTTPS.
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const area = h("textarea.visually-hidden", { readonly: true, "aria-hidden": "true" }, text);
  document.body.append(area);
  area.select();
  try {
    return document.execCommand("copy");
  } finally {
    area.remove();
  }
}

/**
 * Asks for a confirmation, with optional fields.
 *
 * @param {{title: string, text?: string, action: string, kind?: string, fields?: Element[]}} options
 * @returns {Promise<FormData|null>} The fields of the form; null if the user cancels.
 */
export function ask({ title, text = "", action, kind = "primary", fields = [] }) {
  return new Promise((resolve) => {
    const form = h("form", { method: "dialog" },
      h("h2", { id: "dialog-title" }, title),
      text ? h("p", {}, text) : null,
      fields,
      h("div.actions", {},
        h("button", { value: "cancel", formnovalidate: true }, "Cancel"),
        h(`button.${kind}`, { value: "ok" }, action)));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    dialog.addEventListener("close", () => {
      const accepted = dialog.returnValue === "ok";
      resolve(accepted ? new FormData(form) : null);
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Returns a labelled form field; `input` is an input, select or textarea. */
export function field(label, input, hint = "") {
  const id = input.id || `field-${Math.random().toString(36).slice(2)}`;
  input.id = id;
  const hintId = `${id}-hint`;
  if (hint) input.setAttribute("aria-describedby", hintId);
  return h("div.field", {}, h("label", { for: id }, label), input, hint ? h("small", { id: hintId }, hint) : null);
}

/**
 * Shows errors at the fields of a form.
 *
 * @param {Element} form
 * @param {Map<string, string>} errors The errors by the `data-path` of their fields. Fields without
 *   an error lose the one that they show.
 */
export function showErrors(form, errors) {
  for (const input of form.querySelectorAll("input[data-path], select[data-path], textarea[data-path]")) {
    const text = errors.get(input.dataset.path) || "";
    input.setAttribute("aria-invalid", String(Boolean(text)));
    const place = input.closest(".field");
    place?.querySelector(":scope > .error")?.remove();
    if (text) place?.append(h("small.error", { role: "alert" }, text));
  }
}

/** Returns a table with a caption for screen readers, column headings and an empty body. */
export function table(caption, columns) {
  const body = h("tbody");
  const element = h("table", {},
    h("caption.hidden", {}, caption),
    h("thead", {}, h("tr", {}, columns.map((column) =>
      h("th", { scope: "col", class: column.number ? "number" : null }, column.title ?? column)))),
    body);
  return { element: h("div.scroll", { tabindex: "0", role: "group", "aria-label": caption }, element), body };
}

/** Shows that a part of the page loads. */
export function loading(element) {
  fill(element, h("p.loading", { role: "status" }, "Loading…"));
}
