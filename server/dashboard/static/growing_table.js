// A table of many rows, of which a page shows the first ones and more when asked.

import { h, refill, table } from "/assets/static/elements.js";
import { count } from "/assets/static/words.js";

const SHOWN = 100;

/** The table as `element`; `show(rows, empty)` fills it, or says `empty`. */
export function growingTable(caption, columns) {
  const element = h("div");
  let shown = SHOWN;

  function show(rows, empty) {
    const grow = () => {
      shown += SHOWN;
      show(rows, empty);
    };
    const more = rows.length > shown
      ? h("button", { type: "button", id: "more", click: grow }, `Show more (${count(rows.length - shown)} left)`)
      : null;
    refill(element, table(caption, columns, rows.slice(0, shown), empty), more);
  }
  return { element, show };
}
