// A dialog with a form that stays open until the server accepts its values.

import { fill, h } from "./dom.js";
import { copyButton, field, showErrors } from "./ui.js";

/**
 * Asks for values and sends them.
 *
 * @param {Object} options
 * @param {string} options.title
 * @param {string} [options.text] An explanation.
 * @param {string} options.action The text of the button that sends the form.
 * @param {string} [options.kind] The kind of that button: "primary" or "danger".
 * @param {Object[]} [options.fields] The fields, each with `name` (the field in the request, as in
 *   violations), `label`, `hint`, and `input`, an input element or null for a text field. `read`
 *   converts the text of the field; an error that it throws is shown at the field.
 * @param {(values: Object) => Promise<*>} options.send Sends the values by name.
 * @returns {Promise<*>} What `send` returns; null if the user cancels.
 */
export function formDialog({ title, text = "", action, kind = "primary", fields = [], send }) {
  return new Promise((resolve) => {
    let result = null;
    const inputs = new Map(fields.map((each) => [each.name, each.input || h("input", { autocomplete: "off" })]));
    for (const [name, input] of inputs) input.dataset.path = name;
    const error = h("p.error", { role: "alert", hidden: true });
    const confirm = h(`button.${kind}`, {}, action);
    const form = h("form", { novalidate: true, on: { submit } },
      h("h2", { id: "dialog-title" }, title),
      text ? h("p", {}, text) : null,
      fields.map((each) => field(each.label, inputs.get(each.name), each.hint || "")),
      error,
      h("div.actions", {}, h("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel"), confirm));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", on: { close: () => { dialog.remove(); resolve(result); } } }, form);
    document.body.append(dialog);
    dialog.showModal();

    async function submit(event) {
      event.preventDefault();
      confirm.disabled = true;
      try {
        result = await send(values());
        dialog.close();
      } catch (failure) {
        show(failure);
      } finally {
        confirm.disabled = false;
      }
    }

    function values() {
      return Object.fromEntries(fields.map(({ name, read = (value) => value }) => {
        const input = inputs.get(name);
        try {
          return [name, read(input.type === "checkbox" ? input.checked : input.value.trim())];
        } catch (failure) {
          throw Object.assign(failure, { violations: [{ field: name, description: failure.message }] });
        }
      }));
    }

    function show(failure) {
      const errors = new Map();
      const others = [];
      for (const { field: path, description } of failure.violations || []) {
        // A violation of a part, such as `scope[1]`, is shown at its field.
        const name = [...inputs.keys()].find((each) => path === each || path.startsWith(`${each}[`) || path.startsWith(`${each}.`));
        if (name) errors.set(name, description);
        else others.push(`${path} ${description}`);
      }
      showErrors(form, errors);
      if (!errors.size && !others.length) others.push(failure.message);
      error.textContent = others.join(". ");
      error.hidden = !others.length;
      form.querySelector("[aria-invalid='true']")?.focus();
    }
  });
}

/** Shows a secret that cannot be read again. Ends when the user closes the dialog. */
export function showSecret({ title, text, secret }) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-labelledby": "dialog-title", on: { close: () => { dialog.remove(); resolve(); } } });
    fill(dialog,
      h("h2", { id: "dialog-title" }, title),
      h("p", {}, text),
      h("div.row", {}, h("code.grow", { data: { secret: "" } }, secret), copyButton(secret)),
      h("form", { method: "dialog" }, h("div.actions", {}, h("button.primary", {}, "Close"))));
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Returns a random idempotency key. `crypto.randomUUID` is missing in pages without TLS. */
export function requestId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
