// Saved views: names for filters, kept in this browser.

const KEY = "headrace-views";

/** Returns the saved views in the order in which they were saved. */
export function savedViews() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) || [];
  } catch {
    return [];
  }
}

/** Saves a filter under a name; an earlier view of that name is replaced. */
export function saveView(name, filter) {
  const others = savedViews().filter((view) => view.name !== name);
  localStorage.setItem(KEY, JSON.stringify([...others, { name, filter }]));
}

/** Deletes a view. */
export function deleteView(name) {
  localStorage.setItem(KEY, JSON.stringify(savedViews().filter((view) => view.name !== name)));
}
