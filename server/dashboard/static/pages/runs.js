// All runs: what stands, how far they are.

import { at, get, list } from "/assets/static/api.js";
import { badge, h, noted, refill, table } from "/assets/static/elements.js";
import { keepFresh } from "/assets/static/live.js";
import { ago, figure, moment, NONE, share } from "/assets/static/words.js";

export async function render(root, { isOperator }) {
  const place = h("div");
  const make = isOperator ? h("a", { href: "/new-run", class: "button" }, "New run") : null;
  root.append(h("div", { class: "headline" }, h("h1", {}, "Runs"), make), place);

  async function refresh() {
    const [runs, results] = await Promise.all([list("/runs"), get("/results")]);
    const result = new Map(results.map((one) => [one.run, one]));
    refill(place, table("Runs", columns(result), runs, "There is no run yet."));
  }
  await keepFresh(refresh, { matters: (event) => event.run !== null && event.kind !== "update-refused" });
  return "Runs";
}

function columns(result) {
  return [
    { name: "Run", cell: (run) => h("a", { href: at("/runs", run.run) }, run.run) },
    { name: "Status", cell: (run) => noted(badge(run.status), run.reason) },
    { name: "Progress", cell: progress },
    { name: "Accuracy", number: true, cell: (run) => share(result.get(run.run)?.accuracy) },
    { name: "Loss", number: true, cell: (run) => figure(result.get(run.run)?.loss) },
    { name: "Created", cell: (run) => (run.started ? h("span", { title: moment(run.started) }, ago(run.started)) : NONE) },
  ];
}

function progress(run) {
  const planned = run.config.rounds;
  const words = `${run.rounds_closed} of ${planned} rounds`;
  return h("span", { class: "progress" }, h("progress", { max: planned, value: run.rounds_closed, "aria-label": words }), words);
}
