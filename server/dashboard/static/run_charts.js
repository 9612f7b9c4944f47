// The plots of a run's closed rounds.

import { lineChart } from "/assets/static/charts.js";
import { bytes, figure, share } from "/assets/static/words.js";

const SCALE = "Each labelled line is ten times the one below, so a small gap is a large saving.";

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
    caption: "The share of test examples, which no device has seen, that the model gets right after each round. Higher is better. The scale need not begin at 0.",
    y: "accuracy (%)",
    series: [{ name: "Accuracy", colour: "accent" }],
    format: (value) => share(value, 1),
  }, [(round) => round.accuracy]);
}

function loss() {
  return ofRounds({
    title: "How wrong the model is",
    caption: "The mean loss on the same test examples: 0 is perfect, and being sure of a wrong answer costs most. Lower is better; it is no percentage.",
    y: "loss",
    series: [{ name: "Loss", colour: "accent" }],
    format: figure,
  }, [(round) => round.loss]);
}

function uplink() {
  return traffic("up", "Sent", "What devices sent", `Bytes that all devices together sent in each round, and what sending whole models would have taken. ${SCALE}`);
}

function downlink() {
  return traffic("down", "Received", "What devices received", `Bytes that went to all devices in each round, and what sending whole models would have taken. ${SCALE} Now and then all get the whole model: in full where it is their first, else as a small difference from the last one.`);
}

function traffic(way, name, title, caption) {
  const series = [{ name, colour: "accent" }, { name: "Whole models", colour: "second", dash: true }];
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
