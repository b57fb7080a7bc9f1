// A form for a JSON document, made from its JSON Schema.
//
// Objects, arrays, strings, numbers, booleans, enums, null and alternatives have fields. Any other
// schema has a text area for JSON.

import { fill, h } from "./dom.js";
import { button, field, showErrors } from "./ui.js";

const MAX_DEPTH = 8;

/** An input that is not a value of its schema, such as "abc" for a number. */
export class InputError extends Error {
  constructor(path, message) {
    super(message);
    this.path = path;
  }
}

/**
 * Returns a form for a schema.
 *
 * @param {Object} schema The JSON Schema; `{}` and `true` accept every document.
 * @param {*} [value] The first value.
 * @returns {{element: Element, read: () => *, showErrors: (errors: Map<string, string>) => void}}
 *   `read` returns the document, without optional fields that are empty, and throws an InputError.
 *   `showErrors` shows a text at the field of each path, such as `items[0].name`.
 */
export function schemaForm(schema, value) {
  const root = editor({ schema: schema === true ? {} : schema, root: schema, path: "", depth: 0, value, required: true });
  return {
    element: root.element,
    read: () => root.read(),
    showErrors: (errors) => showErrors(root.element, errors),
  };
}

/** An editor has an element, and `read`, which returns a value or undefined if it is left out. */
function editor(options) {
  const schema = resolve(options.schema, options.root);
  const inner = { ...options, schema };
  if (options.depth > MAX_DEPTH) return jsonEditor(inner);
  const alternatives = schema.oneOf || schema.anyOf;
  if (alternatives) return alternativesEditor(inner, alternatives);
  if (Array.isArray(schema.type)) return alternativesEditor(inner, schema.type.map((type) => ({ ...schema, type })));
  if ("const" in schema) return constantEditor(inner);
  if (schema.enum) return enumEditor(inner);
  const make = {
    object: schema.properties ? objectEditor : jsonEditor, array: schema.items ? arrayEditor : jsonEditor,
    string: stringEditor, number: numberEditor, integer: numberEditor, boolean: booleanEditor, null: nullEditor,
  }[schema.type];
  return (make || jsonEditor)(inner);
}

function resolve(schema, root) {
  let current = schema === true ? {} : schema;
  // References can form a circle, which has no value.
  for (let steps = 0; current.$ref && steps < 20; steps += 1) {
    const target = current.$ref.replace(/^#\/?/, "").split("/").filter(Boolean)
      .reduce((node, key) => node?.[decodeURIComponent(key).replaceAll("~1", "/").replaceAll("~0", "~")], root);
    const { $ref, ...rest } = current;
    current = { ...(target || {}), ...rest };
  }
  if (current.allOf?.length === 1) {
    const { allOf, ...rest } = current;
    return resolve({ ...allOf[0], ...rest }, root);
  }
  return current;
}

function objectEditor({ schema, root, path, depth, value }) {
  const required = new Set(schema.required || []);
  const given = isObject(value) ? value : {};
  const editors = Object.entries(schema.properties).map(([name, each]) => {
    const isRequired = required.has(name);
    return [name, editor({
      schema: each, root, depth: depth + 1, required: isRequired, path: path ? `${path}.${name}` : name, title: name,
      value: name in given ? given[name] : resolve(each, root).default,
    })];
  });
  const known = new Set(Object.keys(schema.properties));
  const others = Object.fromEntries(Object.entries(given).filter(([name]) => !known.has(name)));
  const body = editors.map(([, each]) => each.element);
  return {
    element: depth ? group(path, schema, body) : h("div", {}, body),
    read() {
      const result = { ...others };
      for (const [name, each] of editors) {
        const inner = each.read();
        if (inner !== undefined) result[name] = inner;
      }
      return result;
    },
  };
}

function arrayEditor({ schema, root, path, depth, value, required }) {
  const list = h("div");
  let editors = [];
  for (const item of Array.isArray(value) ? value : []) add(item);
  return {
    element: group(path, schema, [list, button("Add an item", () => add())], required),
    read: () => (editors.length || required ? editors.map((each) => each.read()) : undefined),
  };

  function add(item) {
    const each = editor({ schema: schema.items, root, depth: depth + 1, required: true, value: item, path: `${path}[${editors.length}]`, title: `Item ${editors.length + 1}` });
    editors.push(each);
    const row = h("div.item", {}, each.element, button("Remove", () => {
      editors = editors.filter((other) => other !== each);
      row.remove();
    }, { "aria-label": `Remove item of ${path}` }));
    list.append(row);
  }
}

function alternativesEditor(options, alternatives) {
  const { root, value, path, required } = options;
  const schemas = alternatives.map((each) => resolve(each, root));
  const nullIndex = schemas.findIndex((each) => each.type === "null");
  if (schemas.length === 2 && nullIndex >= 0) {
    // A value or null: an empty field means null if the document must have it, and is left out otherwise.
    const inner = editor({ ...options, schema: mergeTitle(schemas[1 - nullIndex], options.schema), value: value ?? undefined, required: false });
    return { element: inner.element, read: () => inner.read() ?? (required ? null : undefined) };
  }
  const slot = h("div");
  let current;
  const select = h("select", { data: { path }, on: { change: () => choose(Number(select.value)) } },
    schemas.map((each, index) => h("option", { value: index }, each.title || each.type || `Alternative ${index + 1}`)));
  const first = Math.max(0, schemas.findIndex((each) => value !== undefined && looksLike(each, value)));
  select.value = first;
  choose(first, value);
  return { element: h("div", {}, field(titleOf(options), select, options.schema.description), slot), read: () => current.read() };

  function choose(index, given) {
    current = editor({ ...options, schema: schemas[index], depth: options.depth + 1, value: given });
    fill(slot, current.element);
  }
}

function mergeTitle(schema, outer) {
  return { ...schema, title: outer.title ?? schema.title, description: outer.description ?? schema.description };
}

function looksLike(schema, value) {
  const type = value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
  if (schema.const !== undefined) return schema.const === value;
  if (schema.type === "integer") return Number.isInteger(value);
  if (type !== schema.type) return false;
  return type !== "object" || Object.entries(schema.properties || {}).every(([name, each]) => each.const === undefined || each.const === value[name]);
}

function constantEditor({ schema }) {
  return { element: h("span", { hidden: true }), read: () => schema.const };
}

function nullEditor() {
  return { element: h("span", { hidden: true }), read: () => null };
}

function enumEditor(options) {
  const { schema, value, path, required } = options;
  const select = h("select", { data: { path } },
    required && value !== undefined ? null : h("option", { value: "" }, required ? "Choose…" : "–"),
    schema.enum.map((each, index) => h("option", { value: index, selected: each === value }, String(each))));
  return {
    element: field(titleOf(options), select, schema.description),
    read() {
      if (select.value !== "") return schema.enum[Number(select.value)];
      return missing(required, path);
    },
  };
}

function stringEditor(options) {
  const { schema, value, path, required } = options;
  const long = (schema.maxLength ?? 0) > 200 || String(value ?? "").includes("\n");
  const type = { email: "email", uri: "url", date: "date" }[schema.format] || "text";
  const input = h(long ? "textarea" : "input", {
    ...(long ? { rows: 4 } : { type }), value: value ?? "", data: { path }, maxlength: schema.maxLength, placeholder: schema.examples?.[0] ?? (schema.format === "date-time" ? "2030-01-31T12:00:00Z" : null),
  });
  // An empty text is a value only where the schema requires the field and allows it.
  const takesEmpty = required && !schema.minLength && !schema.format && !schema.pattern;
  return {
    element: field(titleOf(options), input, schema.description),
    read: () => (input.value !== "" || takesEmpty ? input.value : missing(required, path)),
  };
}

function numberEditor(options) {
  const { schema, value, path, required } = options;
  const input = h("input", { inputmode: schema.type === "integer" ? "numeric" : "decimal", value: value ?? "", data: { path } });
  return {
    element: field(titleOf(options), input, schema.description),
    read() {
      const text = input.value.trim();
      if (text === "") return missing(required, path);
      const number = Number(text);
      if (!Number.isFinite(number)) throw new InputError(path, "must be a number");
      if (schema.type === "integer" && !Number.isInteger(number)) throw new InputError(path, "must be a whole number");
      if (Number.isInteger(number) && !Number.isSafeInteger(number)) throw new InputError(path, "is too large for this form; submit it as JSON");
      return number;
    },
  };
}

function booleanEditor(options) {
  const { value, path, required, schema } = options;
  if (required || value !== undefined) {
    const input = h("input", { type: "checkbox", checked: Boolean(value), data: { path } });
    return { element: field(titleOf(options), input, schema.description), read: () => input.checked };
  }
  return enumEditor({ ...options, schema: { ...schema, enum: [true, false] } });
}

function jsonEditor(options) {
  const { value, path, required, schema } = options;
  const input = h("textarea", { rows: 5, spellcheck: "false", data: { path }, value: value === undefined ? "" : JSON.stringify(value, null, 2) });
  return {
    element: field(titleOf(options) || "JSON", input, schema.description || "JSON"),
    read() {
      if (input.value.trim() === "") return missing(required && options.depth > 0, path);
      try {
        return JSON.parse(input.value);
      } catch (error) {
        throw new InputError(path, `is not JSON: ${error.message}`);
      }
    },
  };
}

function missing(required, path) {
  if (required) throw new InputError(path, "is required");
  return undefined;
}

function titleOf({ title, schema, required }) {
  const text = title ?? schema.title ?? "";
  return text && !required ? `${text} (optional)` : text;
}

function group(path, schema, body, required = true) {
  const name = path.split(".").at(-1);
  return h("fieldset", { data: { path } }, h("legend", {}, required ? name : `${name} (optional)`),
    schema.description ? h("p.hint", {}, schema.description) : null, body);
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
