// The subscriptions: their consumers and how far they are behind, live.

import { call } from "../lib/api.js";
import { fill, h, reconcile, setText } from "../lib/dom.js";
import { duration, seconds, state, STATES } from "../lib/format.js";
import { formDialog } from "../lib/form_dialog.js";
import { follow } from "../lib/live.js";
import { can } from "../lib/principal.js";
import { button, empty, notify, notifyError, table, timeMark } from "../lib/ui.js";

/** Shows all subscriptions. */
export async function start(content) {
  const writes = await can("subscriptions:write");
  const columns = ["Name", "Jobs", "Consumer", { title: "Lag", number: true }, "Last acknowledgment", "Created"];
  const { element, body } = table("Subscriptions", writes ? [...columns, "Actions"] : columns);
  const note = h("div");
  fill(content,
    h("div.heading", {}, h("h1", {}, "Subscriptions"), h("span.space"), writes ? button("Create subscription…", () => create().catch(notifyError), { kind: "primary" }) : null),
    h("section.panel", { "aria-label": "Subscriptions" }, element, note));
  follow("/feed/subscriptions", {
    subscriptions: ({ subscriptions = [] }) => {
      reconcile(body, subscriptions, (each) => each.name, (each) => createRow(each, writes), updateRow);
      fill(note, subscriptions.length ? null : empty("There is no subscription.", "A subscription keeps events until a consumer has acknowledged them."));
    },
  }, { refused: notifyError });
}

function createRow(subscription, writes) {
  const { name, filter = {}, unreadableFields = [] } = subscription;
  const row = h("tr", {},
    h("th", { scope: "row" }, name),
    h("td", {}, unreadableFields.length ? h("span.error", {}, "The filter cannot be read. Delete the subscription and create it again.") : filterMarks(filter)),
    h("td"), h("td.number"), h("td"), h("td", {}, timeMark(subscription.createTime)),
    writes ? h("td", {}, button("Delete…", () => remove(name).catch(notifyError), { kind: "danger", "aria-label": `Delete ${name}` })) : null);
  updateRow(row, subscription);
  return row;
}

/** Updates the cells that change. The button stays, so it keeps the focus. */
function updateRow(row, { consumer, lag, ackTime }) {
  const [, , consumerCell, lagCell, ackCell] = row.children;
  setText(consumerCell, consumer || "none");
  setText(lagCell, lag ? duration(seconds(lag)) : "0 ms");
  fill(ackCell, timeMark(ackTime));
}

function filterMarks(filter) {
  const entries = [
    ...(filter.queues || []).map((queue) => `queue = ${queue}`), ...(filter.types || []).map((type) => `type = ${type}`),
    ...(filter.states || []).map((name) => `state = ${state(name)}`), ...(filter.batchId ? [`batch = ${filter.batchId}`] : []),
    ...(filter.jobIds || []).map((id) => `id = ${id}`), ...Object.entries(filter.labels || {}).map(([key, value]) => `${key} = ${value}`),
  ];
  return entries.length ? entries.map((entry) => h("span.label", {}, entry)) : "all";
}

function create() {
  const words = (text) => text.split(/[\s,]+/).filter(Boolean);
  return formDialog({
    title: "Create a subscription", text: "It starts now, and keeps its place between connections of its consumers.", action: "Create",
    fields: [
      { name: "name", label: "Name", hint: "1 to 100 characters of a-z, 0-9, “.”, “_” and “-”." },
      { name: "filter.queues", label: "Queues", hint: "Separated by spaces. Empty: all.", read: words },
      { name: "filter.types", label: "Types", hint: "Separated by spaces. Empty: all.", read: words },
      { name: "filter.states", label: "States", hint: `Of ${STATES.join(", ")}. Empty: all.`, read: (text) => words(text).map((word) => `JOB_STATE_${word.toUpperCase()}`) },
      { name: "filter.labels", label: "Labels", hint: "key=value, separated by spaces.", read: labels },
    ],
    send: (values) => call("SubscriptionService/CreateSubscription", {
      name: values.name, filter: { queues: values["filter.queues"], types: values["filter.types"], states: values["filter.states"], labels: values["filter.labels"] },
    }),
  });
}

function labels(text) {
  return Object.fromEntries(text.split(/\s+/).filter(Boolean).map((pair) => {
    const [key, ...rest] = pair.split("=");
    if (!key || !rest.length) throw new Error("must be key=value");
    return [key, rest.join("=")];
  }));
}

async function remove(name) {
  const removed = await formDialog({
    title: `Delete the subscription ${name}?`, text: "Its watches end, and its place is lost. A new subscription of this name starts at its creation.", action: "Delete", kind: "danger",
    send: async () => (await call("SubscriptionService/DeleteSubscription", { name })) && true,
  });
  if (removed) notify(`The subscription ${name} is deleted.`);
}
