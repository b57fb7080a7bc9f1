// The principal of the session and its rights.

import { get } from "./api.js";

let known;

/**
 * Returns the principal of the session.
 *
 * @returns {Promise<{name: string, tenant: string, role: string, rights: string[], open: boolean}>}
 *   `open` is true if the installation has no access control; every right then holds.
 */
export function principal() {
  known ??= get("/v1/me");
  return known;
}

/** Returns whether the principal has a right, such as "jobs:cancel". */
export async function can(right) {
  const { rights = [], open } = await principal();
  return Boolean(open) || rights.includes(right);
}
