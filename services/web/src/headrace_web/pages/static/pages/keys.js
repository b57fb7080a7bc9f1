// The API keys of the tenant.

import { readTime, roleInput, SCOPE_HINT, scopeEntries, timeInput } from "../lib/access.js";
import { call } from "../lib/api.js";
import { fill, h } from "../lib/dom.js";
import { role } from "../lib/format.js";
import { formDialog, requestId, showSecret } from "../lib/form_dialog.js";
import { pagedTable } from "../lib/pager.js";
import { button, empty, notify, notifyError, timeMark } from "../lib/ui.js";

/** Shows the keys. */
export async function start(content) {
  const list = pagedTable({
    caption: "API keys",
    columns: ["Principal", "Id", "Role", "Scope", "State", "Created", "Expires", "Last use", "Actions"],
    load: async (pageToken) => {
      const { apiKeys, nextPageToken } = await call("AccessService/ListApiKeys", { pageToken });
      return { items: apiKeys, nextPageToken };
    },
    row: (key) => keyRow(key, () => revoke(key).catch(notifyError)),
    none: () => empty("There is no API key.", "Create one for each program that calls Headrace."),
  });
  fill(content,
    h("div.heading", {}, h("h1", {}, "API keys"), h("span.space"), button("Create key…", () => create().catch(notifyError), { kind: "primary" })),
    h("section.panel", { "aria-label": "API keys" }, list.element));
  await list.reload();

  async function create() {
    const id = requestId();
    const created = await formDialog({
      title: "Create an API key", action: "Create",
      fields: [
        { name: "principal", label: "Principal", hint: "The name of the caller in events and in the audit log." },
        { name: "role", label: "Role", input: await roleInput() },
        { name: "scope", label: "Scope", hint: SCOPE_HINT, read: scopeEntries },
        { name: "expire_time", label: "Expires", hint: "Empty: never.", input: timeInput(), read: readTime },
      ],
      send: ({ expire_time: expireTime, ...values }) => call("AccessService/CreateApiKey", { ...values, expireTime, requestId: id }),
    });
    if (!created) return;
    await showSecret({ title: "The new API key", text: "Copy it now. It is not stored and cannot be shown again.", secret: created.secret });
    await list.reload();
  }

  async function revoke(key) {
    const revoked = await formDialog({
      title: `Revoke the key ${key.id} of ${key.principal}?`, action: "Revoke", kind: "danger",
      text: "Within five seconds, all gateways reject it and end its streams. A revoked key cannot be used again.",
      send: async () => (await call("AccessService/RevokeApiKey", { id: key.id })) && true,
    });
    if (!revoked) return;
    notify(`The key ${key.id} is revoked.`);
    await list.reload();
  }
}

function keyRow(key, revoke) {
  const state = stateOf(key);
  return h("tr", {},
    h("th", { scope: "row" }, key.principal), h("td.id", {}, key.id), h("td", {}, role(key.role).toLowerCase()),
    h("td", {}, (key.scope || []).map((entry) => h("span.label", {}, entry))),
    h("td", {}, state), h("td", {}, timeMark(key.createTime), key.createdBy ? ` by ${key.createdBy}` : ""),
    h("td", {}, key.expireTime ? timeMark(key.expireTime) : "never"), h("td", {}, timeMark(key.lastUseTime)),
    h("td", {}, state === "active" ? button("Revoke…", revoke, { kind: "danger", "aria-label": `Revoke the key ${key.id}` }) : null));
}

function stateOf({ revokeTime, expireTime }) {
  if (revokeTime) return "revoked";
  return expireTime && new Date(expireTime) <= new Date() ? "expired" : "active";
}
