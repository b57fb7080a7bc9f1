// The users of the tenant, who log in with a password.

import { roleInput, SCOPE_HINT, scopeEntries } from "../lib/access.js";
import { call } from "../lib/api.js";
import { fill, h } from "../lib/dom.js";
import { role } from "../lib/format.js";
import { formDialog, requestId, showSecret } from "../lib/form_dialog.js";
import { pagedTable } from "../lib/pager.js";
import { button, empty, notify, notifyError, timeMark } from "../lib/ui.js";

/** Shows the users. */
export async function start(content) {
  const list = pagedTable({
    caption: "Users",
    columns: ["Name", "Role", "Scope", "State", "Created", "Last login", "Actions"],
    load: async (pageToken) => {
      const { users, nextPageToken } = await call("UserService/ListUsers", { pageToken });
      return { items: users, nextPageToken };
    },
    row: userRow,
    none: () => empty("There is no user.", "Create one for each person who opens the dashboard with a password."),
  });
  fill(content,
    h("div.heading", {}, h("h1", {}, "Users"), h("span.space"), button("Create user…", act(create), { kind: "primary" })),
    h("section.panel", { "aria-label": "Users" }, list.element));
  await list.reload();

  /** Returns a listener that runs an action and then shows the changed list. */
  function act(action, ...values) {
    return async () => {
      try {
        if (await action(...values)) await list.reload();
      } catch (error) {
        notifyError(error);
      }
    };
  }

  function userRow(user) {
    const label = (verb) => ({ "aria-label": `${verb} ${user.name}` });
    return h("tr", {},
      h("th", { scope: "row" }, user.name), h("td", {}, role(user.role).toLowerCase()),
      h("td", {}, (user.scope || []).map((entry) => h("span.label", {}, entry))),
      h("td", {}, user.disabled ? "disabled" : "active"), h("td", {}, timeMark(user.createTime), user.createdBy ? ` by ${user.createdBy}` : ""),
      h("td", {}, timeMark(user.lastLoginTime)),
      h("td", {}, h("div.row", {},
        button("Edit…", act(edit, user), label("Edit")), button("Reset password…", act(resetPassword, user), label("Reset the password of")),
        button("Delete…", act(remove, user), { kind: "danger", ...label("Delete") }))));
  }
}

async function create() {
  const id = requestId();
  const created = await formDialog({
    title: "Create a user", action: "Create",
    fields: [
      { name: "name", label: "Name" },
      { name: "role", label: "Role", input: await roleInput() },
      { name: "scope", label: "Scope", hint: SCOPE_HINT, read: scopeEntries },
      { name: "password", label: "Password", hint: "At least 12 characters. Empty: a random password, shown once.", input: h("input", { type: "password", autocomplete: "new-password" }) },
    ],
    send: (values) => call("UserService/CreateUser", { ...values, requestId: id }),
  });
  await showPassword(created);
  return created;
}

function edit(user) {
  return roleInput(role(user.role)).then((input) => formDialog({
    title: `Change ${user.name}`, action: "Save",
    fields: [
      { name: "role", label: "Role", input },
      { name: "scope", label: "Scope", hint: SCOPE_HINT, input: h("input", { value: (user.scope || []).join(" ") }), read: (text) => ({ entries: scopeEntries(text) }) },
      { name: "disabled", label: "Disabled", hint: "A disabled user cannot log in, and its sessions end.", input: h("input", { type: "checkbox", checked: Boolean(user.disabled) }) },
    ],
    send: (values) => call("UserService/UpdateUser", { name: user.name, ...values }),
  }));
}

async function resetPassword(user) {
  const changed = await formDialog({
    title: `Reset the password of ${user.name}?`, action: "Reset", kind: "danger", text: "The sessions of the user end.",
    fields: [{ name: "password", label: "New password", hint: "Empty: a random password, shown once.", input: h("input", { type: "password", autocomplete: "new-password" }) }],
    send: ({ password }) => call("UserService/UpdateUser", { name: user.name, password }),
  });
  await showPassword(changed);
  return changed;
}

async function remove(user) {
  const removed = await formDialog({
    title: `Delete ${user.name}?`, action: "Delete", kind: "danger", text: "The sessions of the user end. Its jobs remain.",
    send: async () => (await call("UserService/DeleteUser", { name: user.name })) && true,
  });
  if (removed) notify(`${user.name} is deleted.`);
  return removed;
}

async function showPassword(response) {
  if (!response?.password) return;
  await showSecret({ title: `The password of ${response.user.name}`, text: "Copy it now. Only its hash is stored, so it cannot be shown again.", secret: response.password });
}
