// Fields of credentials that several pages have: roles, scopes and times.

import { h } from "./dom.js";
import { role } from "./format.js";
import { principal } from "./principal.js";

const ROLES = ["VIEWER", "OPERATOR", "ADMIN", "PLATFORM"];

/** Returns a choice of the roles that the principal may grant: not above its own. */
export async function roleInput(current = "VIEWER") {
  const own = role((await principal()).role);
  const granted = ROLES.includes(own) ? ROLES.slice(0, ROLES.indexOf(own) + 1) : ROLES;
  const names = granted.includes(current) ? granted : [...granted, current];
  return h("select", {}, names.map((name) => h("option", { value: `ROLE_${name}`, selected: name === current }, name.toLowerCase())));
}

/** Returns the entries of a scope in a text, separated by spaces or commas. */
export function scopeEntries(text) {
  return text.split(/[\s,]+/).filter(Boolean);
}

export const SCOPE_HINT = "Empty: no restriction. Entries such as jobs:read, payload:read, queue:mail, type:send, label:team=ml, separated by spaces.";

/** Returns a field for a time in the time zone of the browser. */
export function timeInput(value = "") {
  return h("input", { type: "datetime-local", step: 1, value });
}

/** Returns a time of `timeInput` in RFC 3339; undefined if it is empty. */
export function readTime(text) {
  return text ? new Date(text).toISOString() : undefined;
}
