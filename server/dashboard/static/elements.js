// Elements from values. Text is only ever put in as text, so nothing a device calls itself can become markup.

/** An element: `h("a", { href: "/runs", class: "big" }, "Runs")`. Children are nodes, texts, arrays, or null for none. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...flat(children));
  return element;
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...flat(children));
  return element;
}

/** Replace what is in `node`; the focus stays on the element with the same `id` or `href`. */
export function refill(node, ...children) {
  const focused = node.contains(document.activeElement) ? document.activeElement : null;
  const mark = focused && (focused.id ? `#${CSS.escape(focused.id)}` : `a[href="${CSS.escape(focused.getAttribute("href") ?? "")}"]`);
  node.replaceChildren(...flat(children));
  if (mark) node.querySelector(mark)?.focus({ preventScroll: true });
}

/** A section with a heading. */
export function section(title, ...children) {
  return h("section", {}, h("h2", {}, title), ...children);
}

/** A table whose columns are `{ name, cell(row), number }`; on a phone each row is a card. The first column names the row. */
export function table(caption, columns, rows, empty = "Nothing yet.") {
  if (!rows.length) return h("p", { class: "empty" }, empty);
  const head = h("tr", {}, columns.map((one) => h("th", { scope: "col", class: one.number && "number" }, one.name)));
  const body = rows.map((row) => h("tr", {}, columns.map((one, index) => cell(one, index, row))));
  const attributes = { class: "table", role: "region", "aria-label": caption, tabindex: "0" };
  return h("div", attributes, h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, head), h("tbody", {}, body)));
}

function cell(column, index, row) {
  const attributes = { "data-label": column.name, class: column.number && "number" };
  const content = h("div", {}, column.cell(row)); // in one piece, beside its column's name on a phone
  return index === 0 ? h("th", { ...attributes, scope: "row" }, content) : h("td", attributes, content);
}

/** Figures in cards: `[label, value, note]`. */
export function figures(cards) {
  return h("dl", { class: "figures" }, cards.map(([label, value, ...notes]) =>
    h("div", {}, h("dt", {}, label), h("dd", { class: "value" }, value), notes.filter(Boolean).map((note) => h("dd", { class: "note" }, note)))));
}

/** A field with its label around it. */
export function labelled(words, field) {
  return h("label", {}, words, field);
}

/** What a cell says, with a note under it where there is one. */
export function noted(what, note) {
  return [what, note ? h("span", { class: "note" }, note) : null];
}

/** A status as a word in a coloured frame. */
export function badge(word) {
  return h("span", { class: `badge ${word.replaceAll(" ", "-")}` }, word);
}

function flat(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}
