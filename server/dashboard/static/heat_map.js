// Which neurons the fleet keeps: a row a neuron group, a cell a neuron (or a few neighbours), dark where all keep it.

import { h, refill, svg, table } from "/assets/static/elements.js";
import { count, counted, share } from "/assets/static/words.js";

const WIDTH = 640;
const STEP = 22;
const ROW = 18;

/** A figure; `show(neurons)` takes what `/runs/{run}/neurons` answers. */
export function heatMap() {
  const picture = h("div", { class: "heat" });
  const figures = h("div");
  const element = h("figure", {},
    h("figcaption", {},
      h("h3", {}, "Which neurons the fleet keeps"),
      h("p", {}, "Neurons are the small parts that a model is made of. Each device trains those that matter most to its examples, and none is lost. A row is a layer, a cell a neuron or a few neighbours: the stronger its colour, the more devices trained it for their last update."),
      h("p", { class: "keys" }, h("span", { class: "scale" }, "no device", scale(), "every device"))),
    picture, h("details", {}, h("summary", {}, "Show as a table"), figures));

  function show({ devices, groups }) {
    const rows = groups.map((group) => h("div", { class: "heat-row" },
      h("span", { class: "heat-name" }, group.group), h("span", { class: "heat-size" }, counted(group.size, "neuron")), cells(group)));
    refill(picture, rows.length ? rows : h("p", { class: "empty" }, "No device has told yet which neurons it keeps."));
    refill(figures, asTable(groups, devices));
  }
  return { element, show };
}

function cells({ group, shares, neurons_a_column: width, size }) {
  const each = WIDTH / shares.length;
  const cell = (value, index) => {
    const from = index * width + 1;
    const to = Math.min(size, (index + 1) * width);
    const which = from === to ? `neuron ${from}` : `neurons ${from} to ${to}`;
    const place = { x: index * each, y: 0, width: each, height: ROW, class: "heat-cell", "fill-opacity": value };
    return svg("rect", place, svg("title", {}, `${group}, ${which}: kept by ${share(value, 0)} of devices`));
  };
  const attributes = { viewBox: `0 0 ${WIDTH} ${ROW}`, preserveAspectRatio: "none", role: "img", "aria-label": `${group}: kept by ${share(mean(shares), 0)} of devices on average` };
  return svg("svg", attributes, shares.map(cell));
}

function asTable(groups, devices) {
  return table(`Neurons kept by ${counted(devices, "device")}`, [
    { name: "Group", cell: (one) => one.group },
    { name: "Neurons", number: true, cell: (one) => count(one.size) },
    { name: "Kept on average", number: true, cell: (one) => share(mean(one.shares)) },
    { name: "Kept by every device", number: true, cell: (one) => count(one.always) },
    { name: "Kept by none", number: true, cell: (one) => count(one.never) },
  ], groups);
}

function scale() {
  const steps = [0, 0.25, 0.5, 0.75, 1];
  const squares = steps.map((value, index) => svg("rect", { x: index * STEP, y: 0, width: STEP, height: 14, class: "heat-cell", "fill-opacity": value }));
  return svg("svg", { viewBox: `0 0 ${steps.length * STEP} 14`, "aria-hidden": "true", class: "heat-scale" }, squares);
}

function mean(shares) {
  return shares.reduce((sum, value) => sum + value, 0) / Math.max(1, shares.length);
}
