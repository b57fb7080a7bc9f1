// Keyboard shortcuts: "g" then a letter opens a page, "/" focuses the filter, "?" lists them all.

import { h } from "./dom.js";

const PAGES = {
  o: ["Overview", "/"],
  j: ["Jobs", "/jobs"],
  s: ["Submit", "/submit"],
  q: ["Queues", "/queues"],
  w: ["Workers", "/workers"],
  b: ["Subscriptions", "/subscriptions"],
  k: ["API keys", "/keys"],
  u: ["Users", "/users"],
  t: ["Tenants", "/tenants"],
  a: ["Audit log", "/audit"],
};
const WAIT = 1500;

/** Listens for shortcuts. They are ignored while the user types in a field. */
export function installShortcuts() {
  let prefixed = 0;
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (event.key === "?") return showHelp();
    if (event.key === "/") return focusFilter(event);
    if (event.key === "g") {
      prefixed = performance.now();
    } else if (performance.now() - prefixed < WAIT && PAGES[event.key]) {
      location.assign(PAGES[event.key][1]);
    }
  });
}

function isTyping(target) {
  return target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName);
}

function focusFilter(event) {
  const filter = document.querySelector("[data-shortcut='/']");
  if (!filter) return;
  event.preventDefault();
  filter.focus();
}

function showHelp() {
  if (document.querySelector("dialog[open]")) return;
  const rows = [
    ...Object.entries(PAGES).map(([key, [title]]) => [`g ${key}`, title]),
    ["/", "Filter"],
    ["?", "This list"],
  ];
  const dialog = h("dialog", { "aria-label": "Keyboard shortcuts" },
    h("h2", {}, "Keyboard shortcuts"),
    h("dl.shortcuts", {}, rows.map(([keys, title]) => [h("dt", {}, h("kbd", {}, keys)), h("dd", {}, title)])),
    h("form", { method: "dialog" }, h("div.actions", {}, h("button", {}, "Close"))));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
