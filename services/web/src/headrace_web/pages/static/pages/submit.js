// A form that submits a job of a type, and shows the commands and code that do the same.

import { get, post, withQuery } from "../lib/api.js";
import { fill, h } from "../lib/dom.js";
import { InputError, schemaForm } from "../lib/schema_form.js";
import { snippets } from "../lib/snippets.js";
import { copyButton, empty, field, notifyError, showErrors } from "../lib/ui.js";

// After the last key press, in milliseconds.
const VALIDATION_DELAY = 300;

/** Shows the form; `like` in the URL names a job whose payload and options fill it. */
export async function start(content) {
  const parameters = new URLSearchParams(location.search);
  const [{ handlers = [] }, model] = await Promise.all([
    get("/v1/handlers"),
    parameters.get("like") ? get(`/v1/jobs/${encodeURIComponent(parameters.get("like"))}`, { view: "FULL" }) : null,
  ]);
  const page = new SubmitPage(handlers, model);
  fill(content, page.elements());
  page.choose(model?.type || parameters.get("type") || handlers[0]?.type || "");
}

class SubmitPage {
  constructor(handlers, model) {
    this.handlers = new Map(handlers.map((handler) => [handler.type, handler]));
    this.model = model;
    this.payload = null;
  }

  elements() {
    this.type = h("input", { name: "type", list: "types", required: true, data: { path: "type" }, autocomplete: "off", on: { change: () => this.choose(this.type.value) } });
    this.slot = h("div");
    this.options = optionFields(this.model);
    this.typeField = h("div", {}, field("Type", this.type, this.handlers.size ? "" : "No live worker has registered a type."));
    this.optionFields = h("details", { open: Boolean(this.model) }, h("summary", {}, "Options"), Object.values(this.options).map((each) => each.element));
    this.verdict = h("p", { role: "status" });
    this.code = h("div");
    const form = h("form", { novalidate: true, on: { submit: (event) => this.submit(event), input: () => this.validateSoon() } },
      h("datalist", { id: "types" }, [...this.handlers.keys()].map((type) => h("option", { value: type }))),
      this.typeField,
      h("h2", {}, "Payload"), this.slot,
      this.optionFields,
      this.verdict,
      h("div.actions", {}, h("button.primary", {}, "Submit")));
    this.form = form;
    return [
      h("div.heading", {}, h("h1", {}, "Submit a job")),
      h("div.panels", {}, h("section.panel", { "aria-label": "Job" }, form), h("section.panel", { "aria-labelledby": "same" }, h("h2", { id: "same" }, "The same elsewhere"), this.code)),
    ];
  }

  choose(type) {
    this.type.value = type;
    history.replaceState(null, "", withQuery("/submit", this.model ? { like: this.model.id } : { type }));
    const handler = this.handlers.get(type);
    const payload = this.model?.type === type ? this.model.payload : undefined;
    this.payload = schemaForm(handler?.payloadSchema || {}, payload);
    fill(this.slot, handler?.description ? h("p.hint", {}, handler.description) : null,
      type && !handler ? empty("No live worker runs this type.", "The job would wait until one starts.") : null, this.payload.element);
    this.validateSoon();
  }

  /** Returns the body of the request and the idempotency key, or throws an InputError. */
  read() {
    const spec = { type: this.type.value.trim(), payload: this.readPayload() };
    for (const [name, option] of Object.entries(this.options)) {
      const value = option.read();
      if (value !== undefined && name !== "requestId") spec[name] = value;
    }
    if (spec.payload === undefined) delete spec.payload;
    return { spec, requestId: this.options.requestId.read() || "" };
  }

  readPayload() {
    try {
      return this.payload.read();
    } catch (error) {
      if (error instanceof InputError) error.path = error.path ? `payload.${error.path}` : "payload";
      throw error;
    }
  }

  validateSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.validate(), VALIDATION_DELAY);
  }

  async validate() {
    this.abort?.abort();
    this.abort = new AbortController();
    let request;
    try {
      request = this.read();
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      this.show(new Map([[error.path, error.message]]), "");
      return;
    }
    fill(this.code, snippets(request.spec, request.requestId).map(({ title, text }) => [h("h3", {}, title), h("pre", { tabindex: "0", "aria-label": title }, text), copyButton(text)]));
    try {
      const { outcome } = await this.send(request, { validateOnly: "true" });
      this.show(new Map(), outcome?.endsWith("NO_WORKER") ? "Valid, but no live worker runs this type: the job would wait." : "Valid.");
    } catch (error) {
      if (error.name === "AbortError") return;
      this.showRejection(error);
    }
  }

  send({ spec, requestId }, parameters = {}) {
    return post(withQuery("/v1/jobs", parameters), spec, { signal: parameters.validateOnly ? this.abort.signal : undefined, headers: requestId ? { "idempotency-key": requestId } : {} });
  }

  async submit(event) {
    event.preventDefault();
    clearTimeout(this.timer);
    this.abort?.abort();
    try {
      const response = await this.send(this.read());
      location.assign(`/jobs/${(response.job || response).id}`);
    } catch (error) {
      if (error instanceof InputError) this.show(new Map([[error.path, error.message]]), "");
      else this.showRejection(error);
    }
  }

  showRejection(error) {
    const violations = error.violations || [];
    const errors = new Map(violations.map(({ field: path, description }) => [path.replace(/^job\./, ""), description]));
    this.show(errors, violations.length ? violations.map(({ field: path, description }) => `${path} ${description}`).join(". ") : error.message);
    if (!violations.length) notifyError(error);
  }

  show(errors, text) {
    this.payload.showErrors(new Map([...errors].filter(([path]) => path.startsWith("payload")).map(([path, message]) => [path.replace(/^payload\.?/, ""), message])));
    for (const element of [this.typeField, this.optionFields]) showErrors(element, errors);
    this.verdict.textContent = text || [...errors].map(([path, message]) => `${path} ${message}.`).join(" ");
    this.verdict.className = errors.size || text.startsWith("Valid") === false ? "error" : "hint";
  }
}

function optionFields(model) {
  const text = (path, label, value, hint, convert = (each) => each) => {
    const input = h("input", { value: value ?? "", data: { path } });
    return { element: field(label, input, hint), read: () => (input.value.trim() === "" ? undefined : convert(input.value.trim(), path)) };
  };
  return {
    queue: text("queue", "Queue", model?.queue, "Empty: the queue of the handler."),
    priority: text("priority", "Priority", model?.priority, "A higher number runs first.", whole),
    scheduleTime: text("schedule_time", "Schedule time", "", "RFC 3339, such as 2030-01-31T12:00:00Z. Empty: now."),
    timeout: text("timeout", "Timeout of an attempt", model?.timeout, "In seconds, such as 30s.", (each) => (each.endsWith("s") ? each : `${each}s`)),
    labels: text("labels", "Labels", Object.entries(model?.labels || {}).map((pair) => pair.join("=")).join(", "), "key=value, separated by commas.", labels),
    requestId: text("request_id", "Idempotency key", "", "A second job with the same key is not stored."),
  };
}

function whole(textValue, path) {
  const value = Number(textValue);
  if (!Number.isInteger(value)) throw new InputError(path, "must be a whole number");
  return value;
}

function labels(textValue, path) {
  return Object.fromEntries(textValue.split(",").map((pair) => {
    const [key, ...rest] = pair.trim().split("=");
    if (!key || !rest.length) throw new InputError(path, "must be key=value");
    return [key, rest.join("=")];
  }));
}
