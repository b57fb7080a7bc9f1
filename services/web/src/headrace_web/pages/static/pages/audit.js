// The audit log of the tenant.

import { readTime, timeInput } from "../lib/access.js";
import { call, withQuery } from "../lib/api.js";
import { fill, h } from "../lib/dom.js";
import { dateTime } from "../lib/format.js";
import { pagedTable } from "../lib/pager.js";
import { can } from "../lib/principal.js";
import { button, empty, field, notifyError, showErrors } from "../lib/ui.js";

const PAGE_SIZE = 100;

/** Shows the actions that match the filter in the URL, newest first. */
export async function start(content) {
  const parameters = new URLSearchParams(location.search);
  const text = (name) => h("input", { value: parameters.get(name) || "", data: { path: name } });
  const check = (name) => h("input", { type: "checkbox", checked: parameters.has(name), data: { path: name } });
  const time = (name) => {
    const input = timeInput(parameters.get(name) || "");
    input.dataset.path = name;
    return input;
  };
  const inputs = { principal: text("principal"), method: text("method"), start_time: time("start_time"), end_time: time("end_time"), only_denied: check("only_denied") };
  if (await can("tenants:manage")) inputs.installation = check("installation");
  const list = pagedTable({
    caption: "Actions",
    columns: [{ title: "Number", number: true }, "Time", "Principal", "Method", "Target", "Result", "Address"],
    load: async (pageToken) => {
      const { events, nextPageToken } = await call("AuditService/ListAuditEvents", { pageSize: PAGE_SIZE, pageToken, ...request(inputs) });
      return { items: events, nextPageToken };
    },
    row: eventRow,
    none: () => empty("No action matches.", "Change or clear the filter."),
  });
  const form = h("form.panel", { "aria-label": "Filter", role: "search", on: { submit } },
    h("div.fields", {},
      field("Principal", inputs.principal), field("Method", inputs.method, "AccessService/CreateApiKey, or AccessService/ for all of a service."),
      field("From", inputs.start_time), field("Until", inputs.end_time), field("Denied actions only", inputs.only_denied),
      inputs.installation ? field("Calls without a tenant", inputs.installation, "Such as calls with an invalid credential.") : null),
    h("div.actions", {}, button("Clear", clear), h("button.primary", {}, "Filter")));
  const settings = h("div");
  fill(content, h("div.heading", {}, h("h1", {}, "Audit log"), h("span.space"), settings), form, h("section.panel", { "aria-label": "Actions" }, list.element));
  await Promise.all([reload(), showSettings(settings)]);

  async function reload() {
    try {
      await list.reload();
      showErrors(form, new Map());
    } catch (error) {
      showErrors(form, new Map((error.violations || []).map((each) => [each.field, each.description])));
      notifyError(error);
    }
  }

  function submit(event) {
    event.preventDefault();
    const values = Object.entries(inputs).map(([name, input]) => [name, input.type === "checkbox" ? (input.checked ? "1" : "") : input.value]);
    history.replaceState(null, "", withQuery("/audit", Object.fromEntries(values)));
    reload();
  }

  function clear() {
    for (const input of Object.values(inputs)) {
      if (input.type === "checkbox") input.checked = false;
      else input.value = "";
    }
    form.requestSubmit();
  }
}

function request(inputs) {
  return {
    principal: inputs.principal.value.trim(), method: inputs.method.value.trim(),
    startTime: readTime(inputs.start_time.value), endTime: readTime(inputs.end_time.value),
    onlyDenied: inputs.only_denied.checked, installation: Boolean(inputs.installation?.checked),
  };
}

function eventRow(event) {
  const count = event.count > 1 ? ` (${event.count} times)` : "";
  return h("tr", {},
    h("td.number", {}, event.seq), h("td", {}, h("time", { datetime: event.eventTime }, dateTime(event.eventTime))),
    h("td", {}, event.principal || "–"), h("td", {}, h("code", {}, event.method)), h("td", {}, event.target || "–"),
    h(event.denied ? "td.error" : "td", {}, event.denied ? `denied: ${event.reason || "no reason"}${count}` : `done${count}`),
    h("td", {}, event.address || "–"));
}

async function showSettings(element) {
  const input = h("input", { type: "checkbox", id: "payload-reads", on: { change: save } });
  const { settings = {} } = await call("AuditService/GetAuditSettings");
  input.checked = Boolean(settings.payloadReads);
  fill(element, h("label.row", { for: "payload-reads" }, input, "Record reads of payloads"));

  async function save() {
    try {
      await call("AuditService/UpdateAuditSettings", { settings: { payloadReads: input.checked } });
    } catch (error) {
      input.checked = !input.checked;
      notifyError(error);
    }
  }
}
