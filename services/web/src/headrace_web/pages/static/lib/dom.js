// Builds and updates DOM elements. Text is always inserted as text, never parsed as HTML.

/**
 * Returns a new element.
 *
 * @param {string} tag The tag name, with optional classes: `td.number`.
 * @param {Object} [attributes] Attributes by name. `on` has event listeners by event type, `data`
 *   has data attributes, `style` has CSS properties. Booleans set or omit an attribute; null and
 *   undefined omit it. `value`, `checked`, `selected` and `disabled` set properties.
 * @param {...(Node|string|number|null|Array)} children Null is skipped.
 * @returns {HTMLElement}
 */
export function h(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  setAttributes(element, attributes);
  element.append(...nodes(children));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** Returns a new SVG element; the arguments are those of `h`. */
export function svg(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElementNS(SVG, name);
  element.classList.add(...classes);
  setAttributes(element, attributes);
  element.append(...nodes(children));
  return element;
}

/** Replaces the children of an element. */
export function fill(element, ...children) {
  element.replaceChildren(...nodes(children));
  return element;
}

/** Sets the text of an element; an unchanged text is not written, so a selection survives. */
export function setText(element, text) {
  const value = String(text);
  if (element.textContent !== value) element.textContent = value;
}

/**
 * Makes the children of an element match a list. Elements of items that stay are kept, so focus,
 * selection and scroll position survive.
 *
 * @param {Element} parent
 * @param {Array} items
 * @param {(item) => string} key Identifies an item.
 * @param {(item) => Element} create
 * @param {(element: Element, item) => void} update
 */
export function reconcile(parent, items, key, create, update) {
  const old = new Map();
  for (const child of parent.children) old.set(child.dataset.key, child);
  let next = parent.firstElementChild;
  for (const item of items) {
    const id = key(item);
    let element = old.get(id);
    if (element) {
      old.delete(id);
      update(element, item);
    } else {
      element = create(item);
      element.dataset.key = id;
    }
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
  }
  for (const element of old.values()) element.remove();
}

/**
 * Appends nodes to an element that scrolls, and removes its first nodes above a number. An element
 * that is scrolled to its end stays there.
 *
 * @param {Element} element
 * @param {Array<Node|string>} added
 * @param {number} most The number of nodes to keep.
 */
export function appendAtEnd(element, added, most) {
  const isAtEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 20;
  element.append(...added);
  while (element.childNodes.length > most) element.firstChild.remove();
  if (isAtEnd) element.scrollTop = element.scrollHeight;
}

const PROPERTIES = new Set(["value", "checked", "selected", "disabled", "hidden", "indeterminate"]);

function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name === "on") {
      for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    } else if (name === "data") {
      Object.assign(element.dataset, value);
    } else if (name === "style") {
      for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
    } else if (PROPERTIES.has(name)) {
      element[name] = value;
    } else if (value === true) {
      element.setAttribute(name, "");
    } else if (value !== false) {
      element.setAttribute(name, value);
    }
  }
}

function nodes(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : String(child)));
}
