// A table whose rows are loaded by pages.

import { fill, h } from "./dom.js";
import { button, notifyError, table } from "./ui.js";

/**
 * Returns a table that loads its first page with `reload`, and further pages on request.
 *
 * @param {Object} options
 * @param {string} options.caption
 * @param {Array} options.columns The columns; see `table`.
 * @param {(pageToken: string) => Promise<{items: Array, nextPageToken: string}>} options.load
 * @param {(item) => Element} options.row
 * @param {() => Element} options.none Returns the text for an empty list.
 */
export function pagedTable({ caption, columns, load, row, none }) {
  const { element, body } = table(caption, columns);
  const note = h("div");
  const more = button("Load more", () => loadPage().catch(notifyError), { hidden: true });
  let token = "";
  return { element: h("div", {}, element, note, h("div.actions", {}, more)), reload };

  async function reload() {
    const page = await load("");
    fill(body);
    show(page);
  }

  async function loadPage() {
    more.disabled = true;
    try {
      show(await load(token));
    } finally {
      more.disabled = false;
    }
  }

  function show({ items = [], nextPageToken = "" }) {
    body.append(...items.map(row));
    token = nextPageToken;
    more.hidden = !token;
    fill(note, body.children.length ? null : none());
  }
}
