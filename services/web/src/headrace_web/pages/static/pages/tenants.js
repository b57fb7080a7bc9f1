// The tenants: usage, quotas, suspension and deletion.

import { call } from "../lib/api.js";
import { fill, h, reconcile } from "../lib/dom.js";
import { bytes, number } from "../lib/format.js";
import { formDialog } from "../lib/form_dialog.js";
import { follow } from "../lib/live.js";
import { can, principal } from "../lib/principal.js";
import { button, notify, notifyError, timeMark } from "../lib/ui.js";

// The quotas by their fields, with the field of the usage that each limits.
const QUOTAS = [
  { name: "waitingJobs", title: "Waiting jobs", usage: "waitingJobs", format: number },
  { name: "payloadBytes", title: "Bytes of payloads", usage: "payloadBytes", format: bytes },
  { name: "jobsPerDay", title: "Jobs per day", usage: "jobsToday", format: number },
  { name: "submitsPerSecond", title: "Submits per second and gateway", usage: "", format: number },
  { name: "openStreams", title: "Open streams per gateway", usage: "openStreams", format: number },
];

/** Shows all tenants to the platform, and to an admin the own tenant. */
export async function start(content) {
  const page = new TenantsPage(await can("tenants:manage"), (await principal()).tenant);
  fill(content, page.elements());
  await page.reload();
}

class TenantsPage {
  constructor(manages, own) {
    this.manages = manages;
    this.own = own;
    this.usages = new Map();
  }

  elements() {
    this.list = h("div.panels");
    this.more = button("Load more", () => this.loadMore().catch(notifyError), { hidden: true });
    return [
      h("div.heading", {}, h("h1", {}, this.manages ? "Tenants" : "Tenant"), h("span.space"), this.manages ? button("Create tenant…", this.action(() => this.create()), { kind: "primary" }) : null),
      this.list, h("div.actions", {}, this.more),
    ];
  }

  /** Returns a listener that runs an action and then shows the changed tenants. */
  action(run) {
    return async () => {
      try {
        if (await run()) await this.reload();
      } catch (error) {
        notifyError(error);
      }
    };
  }

  async reload() {
    this.tenants = [];
    this.token = "";
    await this.loadMore();
    this.followDeletions();
  }

  async loadMore() {
    if (this.manages) {
      const page = await call("TenantService/ListTenants", { pageToken: this.token });
      this.tenants.push(...(page.tenants || []));
      this.token = page.nextPageToken || "";
    } else {
      this.tenants = [(await call("TenantService/GetTenant")).tenant];
    }
    this.more.hidden = !this.token;
    this.show();
    await this.loadUsage(this.own);
  }

  async loadUsage(name) {
    this.usages.set(name, await call("TenantService/GetUsage", { name }));
    this.show();
  }

  /** Shows the progress of deletions until none runs. */
  followDeletions() {
    this.stream?.close();
    this.stream = null;
    if (!this.tenants.some(isDeleting)) return;
    this.stream = follow("/feed/deletions", {
      tenants: ({ tenants = [] }) => {
        const states = new Map(tenants.map((tenant) => [tenant.name, tenant]));
        // A tenant that is missing from the list is deleted.
        this.tenants = this.tenants.filter((tenant) => !isDeleting(tenant) || states.has(tenant.name)).map((tenant) => states.get(tenant.name) || tenant);
        this.show();
        if (!tenants.length) this.followDeletions();
      },
    }, { refused: notifyError });
  }

  show() {
    const fillPanel = (panel, tenant) => this.fillPanel(panel, tenant);
    reconcile(this.list, this.tenants, (tenant) => tenant.name, (tenant) => fillPanel(h("section.panel"), tenant), fillPanel);
  }

  fillPanel(panel, tenant) {
    panel.setAttribute("aria-label", `Tenant ${tenant.name}`);
    const deleting = isDeleting(tenant);
    const state = tenant.state.replace("TENANT_STATE_", "").toLowerCase();
    const usage = this.usages.get(tenant.name);
    return fill(panel,
      h("div.row", {}, h("h2", {}, tenant.name), h("span.chip", {}, state), tenant.name === this.own ? h("span.chip", {}, "yours") : null),
      h("p.hint", {}, "Created ", timeMark(tenant.createTime)),
      deleting ? deletionOf(tenant) : null,
      deleting ? null : usage ? usageFacts(usage) : button("Show usage", () => this.loadUsage(tenant.name).catch(notifyError), { "aria-label": `Show the usage of ${tenant.name}` }),
      deleting ? null : h("div.actions", {}, this.actionsOf(tenant)));
  }

  actionsOf(tenant) {
    const { name } = tenant;
    const make = (text, run, options = {}) => button(text, this.action(run), { "aria-label": `${text.replace("…", "")} ${name}`, ...options });
    const suspended = tenant.state === "TENANT_STATE_SUSPENDED";
    return [
      make("Quotas…", () => setQuotas(tenant, "quotas").then((changed) => this.forget(name, changed))),
      this.manages ? make("Ceilings…", () => setQuotas(tenant, "ceilings").then((changed) => this.forget(name, changed))) : null,
      this.manages && name !== this.own ? [
        suspended ? make("Resume", () => call("TenantService/ResumeTenant", { name })) : make("Suspend…", () => suspend(name), { kind: "danger" }),
        name === "default" ? null : make("Delete…", () => remove(name), { kind: "danger" }),
      ] : null,
    ];
  }

  /** The usage also contains the limits. */
  async forget(name, changed) {
    if (changed && this.usages.has(name)) await this.loadUsage(name);
    return changed;
  }

  create() {
    return formDialog({
      title: "Create a tenant", action: "Create",
      fields: [{ name: "name", label: "Name", hint: "1 to 100 characters of a-z, 0-9, “_”, “-” and “.”, beginning with a letter or digit." }],
      send: ({ name }) => call("TenantService/CreateTenant", { name }),
    });
  }
}

function isDeleting({ state }) {
  return state === "TENANT_STATE_DELETING";
}

function deletionOf({ name, deletion = {} }) {
  const removed = Number(deletion.removedJobs || 0);
  const jobs = deletion.jobs === undefined ? null : Number(deletion.jobs);
  return [
    h("progress", { "aria-label": `Deletion of ${name}`, ...(jobs === null ? {} : { max: Math.max(1, jobs), value: jobs ? removed : 1 }) }),
    h("p", {}, jobs === null ? "Counting the jobs…" : `${number(removed)} of ${number(jobs)} jobs removed.`),
  ];
}

function usageFacts(usage) {
  const limits = usage.limits || {};
  const rows = QUOTAS.map(({ name, title, usage: field, format }) => {
    const limit = limits[name] === undefined ? "no limit" : `limit ${format(limits[name])}`;
    const used = field === "" ? "" : usage[field] === undefined ? (field === "payloadBytes" || field === "jobsToday" ? "not counted, " : "0, ") : `${format(usage[field])}, `;
    return [h("dt", {}, title), h("dd", {}, `${used}${limit}`)];
  });
  return h("dl.facts", {}, rows, h("dt", {}, "Running jobs"), h("dd", {}, number(usage.runningJobs)));
}

function setQuotas(tenant, kind) {
  const current = tenant[kind] || {};
  const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return formDialog({
    title: kind === "quotas" ? `Quotas of ${tenant.name}` : `Ceilings of ${tenant.name}`, action: "Save",
    text: kind === "quotas" ? "Limits that admins of the tenant can change. Empty: no limit. 0 rejects every call." : "The tenant cannot raise its quotas above the ceilings. Empty: no ceiling.",
    fields: QUOTAS.map(({ name, title }) => ({
      name: `${kind}.${snake(name)}`, label: title, read: whole,
      input: h("input", { inputmode: "numeric", value: current[name] ?? "" }),
    })),
    send: (values) => call("TenantService/SetQuotas", {
      name: tenant.name,
      [kind]: Object.fromEntries(QUOTAS.map(({ name }) => [name, values[`${kind}.${snake(name)}`]])),
    }),
  });
}

function whole(text) {
  if (text === "") return undefined;
  if (!/^\d+$/.test(text)) throw new Error("must be a whole number that is not negative");
  return text;
}

function suspend(name) {
  return formDialog({
    title: `Suspend ${name}?`, action: "Suspend", kind: "danger", text: "Its calls are rejected, its streams end, and none of its jobs starts. Running jobs continue until they end.",
    send: () => call("TenantService/SuspendTenant", { name }),
  });
}

async function remove(name) {
  const removed = await formDialog({
    title: `Delete ${name}?`, action: "Delete", kind: "danger", text: "All its jobs, keys and users are removed, and its running jobs are cancelled. The deletion cannot be stopped or undone.",
    fields: [{ name: "name", label: `Enter “${name}” to confirm`, read: (text) => { if (text !== name) throw new Error(`must be ${name}`); return text; } }],
    send: () => call("TenantService/DeleteTenant", { name }),
  });
  if (removed) notify(`The deletion of ${name} has started.`);
  return removed;
}
