// Line plots by uPlot: each with a title in plain words, units on its axes, a sentence that says how to read it, and the
// same figures as a table for whoever cannot see it.

import { h, refill, table } from "/assets/static/elements.js";

const HEIGHT = 240;
const FONT = "12px system-ui, sans-serif";

/**
 * A figure that shows `{ title, caption, x, y, series, log, format }`: `x` and `y` label the axes, `series` are
 * `{ name, colour, dash }` (a colour is the name of a variable of the stylesheet), `format` writes a value of y.
 * `show(xs, columns)` puts in one column of values a series, null where there is none.
 */
export function lineChart({ title, caption, x, y, series, log = false, format = String }) {
  const canvas = h("div", { class: "plot", role: "img", "aria-label": `${title}. The table below has the figures.` });
  const readout = h("p", { class: "readout", "aria-hidden": "true" });
  const figures = h("div");
  const keys = series.length > 1 ? series.map((one) => h("span", { class: `key ${one.colour} ${one.dash ? "dashed" : ""}` }, one.name)) : [];
  const element = h("figure", {},
    h("figcaption", {}, h("h3", {}, title), h("p", {}, caption), h("p", { class: "keys" }, keys)),
    canvas, readout, h("details", {}, h("summary", {}, "Show as a table"), figures));
  const settings = { x, y, series, log, format, readout };
  let plot = null;
  let data = null;

  function draw() {
    plot?.destroy();
    plot = null;
    if (!data?.[0].length || !canvas.clientWidth) return;
    plot = new uPlot(options(settings, canvas), data, canvas);
  }

  new ResizeObserver(() => (plot ? plot.setSize({ width: canvas.clientWidth, height: HEIGHT }) : draw())).observe(canvas);
  document.addEventListener("themechange", draw);

  function show(xs, columns) {
    data = [xs, ...columns.map((column) => (log ? column.map((value) => (value > 0 ? value : null)) : column))];
    if (plot && xs.length) plot.setData(data);
    else draw();
    readout.textContent = "";
    refill(figures, asTable(title, settings, xs, columns));
  }
  return { element, show };
}

function asTable(title, { x, series, format }, xs, columns) {
  const rows = xs.map((value, index) => [value, ...columns.map((column) => column[index])]).reverse();
  const written = (value) => (value === null || value === undefined ? "\u2013" : format(value));
  return table(title, [
    { name: x, cell: (row) => String(row[0]) },
    ...series.map((one, index) => ({ name: one.name, number: true, cell: (row) => written(row[index + 1]) })),
  ], rows);
}

function options({ x, y, series, log, format, readout }, canvas) {
  const ruled = { stroke: colour(canvas, "grid"), width: 1 };
  const axis = { stroke: colour(canvas, "muted"), grid: ruled, ticks: ruled, font: FONT, labelFont: FONT, labelSize: 22 };
  return {
    width: canvas.clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, points: { size: 7 } },
    scales: { x: { time: false, range: (_plot, least, most) => (least === most ? [least - 1, most + 1] : [least, most]) }, y: log ? { distr: 3 } : {} },
    axes: [
      { ...axis, label: x, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000], size: 34 },
      { ...axis, label: y, size: 66, values: (_plot, ticks) => ticks.map((tick) => (tick === null ? "" : format(tick).replace(/\.0+(?= |$)/, ""))) },
    ],
    series: [{ label: x }, ...series.map((one) => line(one, colour(canvas, one.colour)))],
    hooks: { setCursor: [(plot) => { readout.textContent = read(plot, x, series, format); }] },
  };
}

function line({ name, dash = false }, stroke) {
  return { label: name, stroke, width: 2, dash: dash ? [6, 5] : undefined, points: { size: 5, stroke, fill: stroke }, spanGaps: true };
}

function read(plot, x, series, format) {
  const index = plot.cursor.idx;
  if (index === null || index === undefined) return "";
  const values = series.map((one, column) => {
    const value = plot.data[column + 1][index];
    return `${one.name} ${value === null || value === undefined ? "\u2013" : format(value)}`;
  });
  return `${x} ${plot.data[0][index]}: ${values.join(", ")}`;
}

/** What a colour of the stylesheet is in the theme that holds now; a canvas cannot look it up itself. */
function colour(element, name) {
  element.style.color = `var(--${name})`;
  return getComputedStyle(element).color;
}
