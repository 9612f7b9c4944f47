// The plots of a run's closed rounds.

import { lineChart } from "/assets/static/charts.js";
import { bytes, figure, share } from "/assets/static/words.js";

/** All plots; `show(rounds, spending)` fills those that there are figures for and hides the others. */
export function runCharts() {
  const plots = [accuracy(), loss(), uplink(), downlink(), epsilon()];
  return {
    elements: plots.map((plot) => plot.element),
    show(rounds, spending) {
      for (const plot of plots) plot.show(rounds, spending);
    },
  };
}

function accuracy() {
  return ofRounds({
    title: "How often the model is right",
    caption: "The share of test examples, which no device has seen, that the model names correctly after each round. Higher is better.",
    y: "accuracy (%)",
    series: [{ name: "Accuracy", colour: "accent" }],
    format: (value) => share(value, 1),
  }, [(round) => round.accuracy]);
}

function loss() {
  return ofRounds({
    title: "How wrong the model is",
    caption: "The mean loss on the same test examples: 0 is perfect, and being sure of a wrong answer costs most. Lower is better.",
    y: "loss",
    series: [{ name: "Loss", colour: "accent" }],
    format: figure,
  }, [(round) => round.loss]);
}

function uplink() {
  return traffic("up", "What devices sent", "Bytes that all devices together sent in each round, and what sending full models would have taken. Each step of the scale is ten times more.");
}

function downlink() {
  return traffic("down", "What devices received", "Bytes that went to all devices in each round, and what full models would have taken. In a resync the whole model goes out, to devices that have the last one as a difference from it.");
}

function traffic(way, title, caption) {
  const series = [{ name: "Sent", colour: "accent" }, { name: "Full models", colour: "second", dash: true }];
  return ofRounds({ title, caption, y: "bytes a round", series, log: true, format: bytes },
    [(round) => round[`bytes_${way}`], (round) => round[`bytes_${way}_dense`]]);
}

function epsilon() {
  const chart = lineChart({
    title: "How much privacy was spent",
    caption: "Epsilon for a device that took part in every round so far: the smaller it is, the less can be learned about any one example or device. It only grows; devices refuse to go past their owner's cap.",
    x: "closed rounds",
    y: "epsilon",
    series: [{ name: "Epsilon", colour: "accent" }],
    format: figure,
  });
  return {
    element: chart.element,
    show(_rounds, spending) {
      chart.element.hidden = !spending.spent.length;
      chart.show(spending.spent.map((point) => point.rounds), [spending.spent.map((point) => point.epsilon)]);
    },
  };
}

function ofRounds(settings, values) {
  const chart = lineChart({ x: "round", ...settings });
  return {
    element: chart.element,
    show(rounds) {
      const columns = values.map((value) => rounds.map(value));
      chart.element.hidden = columns[0].every((value) => value === null);
      chart.show(rounds.map((round) => round.round), columns);
    },
  };
}
