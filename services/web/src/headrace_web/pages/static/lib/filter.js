// A field for filters, with completion of field names, operators and known values.

import { fill, h } from "./dom.js";
import { STATES } from "./format.js";

const EQUALITY = ["=", "!="];
const ORDER = ["<", "<=", ">", ">="];
const FIELDS = {
  state: EQUALITY, type: EQUALITY, queue: EQUALITY, id: [...EQUALITY, ...ORDER], batch_id: EQUALITY,
  request_id: EQUALITY, worker_id: EQUALITY, priority: [...EQUALITY, ...ORDER],
  attempt: [...EQUALITY, ...ORDER], create_time: ORDER, schedule_time: ORDER, start_time: ORDER,
  end_time: ORDER, "labels.": EQUALITY,
};

/**
 * Returns the words that may come next in a filter.
 *
 * @param {string} text The filter up to the caret.
 * @param {{queues: string[], types: string[]}} known The queues and types that exist.
 * @returns {{start: number, words: string[]}} The words, and where the one that they replace begins.
 */
export function completions(text, { queues = [], types = [] }) {
  const start = text.search(/[^\s()]*$/);
  const word = text.slice(start);
  const before = text.slice(0, start).trimEnd();
  return { start, words: candidates(before, { queues, types }).filter((each) => each.toLowerCase().startsWith(word.toLowerCase()) && each !== word) };
}

function candidates(before, { queues, types }) {
  const comparison = /([\w.-]+)\s*(=|!=|<=|>=|<|>)$/.exec(before);
  if (comparison) return valuesOf(comparison[1], { queues, types });
  const field = /([\w.-]+)$/.exec(before)?.[1];
  if (field in FIELDS || field?.startsWith("labels.")) return FIELDS[field] || EQUALITY;
  if (before === "" || /(\bAND|\bOR|\()$/.test(before)) return Object.keys(FIELDS);
  return ["AND", "OR"];
}

function valuesOf(field, { queues, types }) {
  if (field === "state") return STATES;
  const names = { queue: queues, type: types }[field] || [];
  return names.map((name) => JSON.stringify(name));
}

/**
 * Returns a form with a filter field.
 *
 * @param {Object} options
 * @param {string} options.value The first filter.
 * @param {(filter: string) => void} options.apply Called when the user submits a filter.
 * @param {{queues: string[], types: string[]}} options.known Read at each completion.
 */
export function filterForm({ value, apply, known }) {
  let words = [];
  let start = 0;
  let chosen = -1;
  const list = h("ul.completions", { id: "completions", role: "listbox", "aria-label": "Completions", hidden: true });
  const input = h("input.grow", {
    value, type: "text", role: "combobox", spellcheck: "false", autocomplete: "off", "aria-label": "Filter", "aria-expanded": "false",
    "aria-controls": "completions", "aria-autocomplete": "list", data: { shortcut: "/" }, placeholder: "state = FAILED AND labels.team = \"ml\"",
    on: { input: complete, keydown: onKey, focus: complete, blur: close },
  });
  const error = h("p.error", { role: "alert", hidden: true });
  const form = h("form.filter", { role: "search", on: { submit } },
    h("div.row", {}, h("div.combobox", {}, input, list), h("button", {}, "Filter"), h("button", { type: "button", on: { click: clear } }, "Clear")), error);
  return { element: form, set, showError };

  function submit(event) {
    event.preventDefault();
    close();
    showError("");
    apply(input.value.trim());
  }

  function clear() {
    input.value = "";
    form.requestSubmit();
  }

  function set(filter) {
    input.value = filter;
    showError("");
  }

  function showError(text) {
    error.textContent = text;
    error.hidden = !text;
    input.setAttribute("aria-invalid", String(Boolean(text)));
  }

  function complete() {
    ({ start, words } = completions(input.value.slice(0, input.selectionStart), known));
    words = words.slice(0, 12);
    chosen = -1;
    render();
  }

  function render() {
    fill(list, words.map((word, index) => h("li", {
      role: "option", id: `completion-${index}`, "aria-selected": String(index === chosen),
      on: { mousedown: (event) => { event.preventDefault(); take(index); } },
    }, word)));
    list.hidden = !words.length;
    input.setAttribute("aria-expanded", String(!list.hidden));
    if (chosen >= 0) input.setAttribute("aria-activedescendant", `completion-${chosen}`);
    else input.removeAttribute("aria-activedescendant");
  }

  function close() {
    words = [];
    render();
  }

  function take(index) {
    const caret = input.selectionStart;
    const word = words[index];
    const text = word.endsWith(".") ? word : `${word} `;
    input.value = input.value.slice(0, start) + text + input.value.slice(caret);
    input.setSelectionRange(start + text.length, start + text.length);
    complete();
  }

  function onKey(event) {
    if (event.key === "Escape") close();
    if (!words.length) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const step = event.key === "ArrowDown" ? 1 : -1;
      chosen = (chosen + step + words.length + (chosen < 0 && step < 0 ? 1 : 0)) % words.length;
      event.preventDefault();
      render();
    } else if (event.key === "Enter" && chosen >= 0) {
      event.preventDefault();
      take(chosen);
    }
  }
}
