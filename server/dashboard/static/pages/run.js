// One run while it happens: where it stands, what it reached and cost, which neurons are kept, who is late.

import { at, find, get, list } from "/assets/static/api.js";
import { badge, figures, h, refill, section, table } from "/assets/static/elements.js";
import { heatMap } from "/assets/static/heat_map.js";
import { keepFresh } from "/assets/static/live.js";
import { runActions } from "/assets/static/run_actions.js";
import { runCharts } from "/assets/static/run_charts.js";
import { count, counted, figure, NONE, saving, share, span } from "/assets/static/words.js";

const NAMED = 8;

export async function render(root, { isOperator, argument: run }) {
  const [status, summary, open, late] = [h("span"), h("div"), h("div"), h("div")];
  const notice = h("p", { class: "notice" });
  const [charts, neurons] = [runCharts(), heatMap()];
  const actions = runActions(() => refresh());
  root.append(
    h("div", { class: "headline" }, h("h1", {}, run, " ", status), isOperator ? actions.element : null),
    notice, summary, open,
    section("Rounds", h("p", { class: "hint" }, "In each round devices train on their own examples and send what changed; together that makes the next version of the model."), h("div", { class: "plots" }, charts.elements)),
    section("Neurons", neurons.element),
    section("Who is late", h("p", { class: "hint" }, "Devices that were expected in the last rounds and were not heard in time, the worst first."), late),
    h("p", {}, h("a", { href: `/models?run=${encodeURIComponent(run)}` }, "Model versions of this run"), " \u00b7 ",
      h("a", { href: `/events?run=${encodeURIComponent(run)}` }, "Events of this run")));

  async function refresh() {
    const path = (part) => at("/runs", run, part);
    const [record, progress, rounds, spending, kept, stragglers] = await Promise.all([
      get(at("/runs", run)), get(path("progress")), list(path("rounds")), get(path("privacy")), get(path("neurons")), get(path("stragglers")),
    ]);
    actions.show(record);
    refill(status, badge(record.status));
    notice.textContent = [record.reason && `Failed: ${record.reason}`, spending.words].filter(Boolean).join(" ");
    refill(summary, figures(cards(progress, rounds, spending)));
    refill(open, openRound(record, progress));
    charts.show(rounds, spending);
    neurons.show(kept);
    refill(late, lateTable(stragglers));
  }
  if (await find(at("/runs", run)) === null) {
    root.replaceChildren(h("h1", {}, "No such run"), h("p", {}, "There is no run of this name. ", h("a", { href: "/runs" }, "All runs")));
    return "No such run";
  }
  const filter = `?run=${encodeURIComponent(run)}`;
  await keepFresh(refresh, { filter, matters: (event) => event.kind !== "update-refused" });
  return run;
}

function cards(progress, rounds, spending) {
  const last = rounds.at(-1);
  const total = (name) => rounds.reduce((sum, round) => sum + round[name], 0);
  const best = Math.max(...rounds.map((round) => round.accuracy ?? 0));
  const left = progress.seconds_left ? `about ${span(progress.seconds_left)} left at the pace of the last rounds` : "";
  const bar = h("progress", { max: progress.planned, value: progress.closed, "aria-label": "rounds closed" });
  return [
    ["Progress", [`${progress.closed} of ${progress.planned} rounds`, bar], left],
    ["Accuracy", share(last?.accuracy), last?.accuracy != null ? `best so far ${share(best)}` : "", last?.loss != null ? `loss ${figure(last.loss)}, lower is better` : ""],
    ["Data from devices", saving(total("bytes_up"), total("bytes_up_dense")), "in bytes, over all rounds"],
    ["Data to devices", saving(total("bytes_down"), total("bytes_down_dense")), "in bytes, over all rounds"],
    ["Last round", last ? `${counted(last.updates_accepted, "answer")} counted` : NONE, last?.updates_rejected ? `${count(last.updates_rejected)} refused or declined` : "", last ? `took ${span(last.seconds)}` : ""],
    ["Privacy", spending.protects ? `epsilon ${figure(spending.spent.at(-1)?.epsilon ?? 0)}` : "not private", spending.protects ? `of ${figure(spending.planned)} planned, for any one ${spending.protects}` : "what devices send may reveal their examples"],
  ];
}

function openRound(record, { open, missing }) {
  if (!open) return h("p", { class: "open-round" }, record.status === "running" ? "Between rounds: the next one opens once enough devices are online and it is this run's turn." : "No round is open.");
  const answered = open.counted + open.refused;
  const since = span(Math.max(0, Date.now() / 1000 - open.opened));
  const names = open.missing.slice(0, NAMED).join(", ") + (missing > NAMED ? ` and ${count(missing - NAMED)} more` : "");
  return h("p", { class: "open-round" },
    h("strong", {}, `Round ${open.round}${open.resync ? " (resync)" : ""}`),
    ` has been open for ${since}: ${count(answered)} of ${counted(open.expected, "device")} answered.`,
    missing ? ` Yet to answer: ${names}.` : "");
}

function lateTable({ rounds, devices, missed_most: rows }) {
  const empty = devices ? `All ${counted(devices, "device")} answered in time in the last ${counted(rounds, "round")}.` : "No round is closed yet.";
  return table("Who is late", [
    { name: "Device", cell: (one) => one.device },
    { name: "Expected", number: true, cell: (one) => counted(one.expected, "round") },
    { name: "Not heard in time", number: true, cell: (one) => `${count(one.missed)} (${share(one.missed / one.expected, 0)})` },
    { name: "Counted late", number: true, cell: (one) => count(one.late) },
  ], rows, empty);
}
