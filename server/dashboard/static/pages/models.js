// The versions of a run's model that are kept: how good they are, to download, to go back to, to promote.

import { at, get, list, order } from "/assets/static/api.js";
import { confirmed } from "/assets/static/confirm.js";
import { badge, h, labelled, refill, table } from "/assets/static/elements.js";
import { keepFresh } from "/assets/static/live.js";
import { ago, bytes, figure, moment, share } from "/assets/static/words.js";

const TAKES_ROLL_BACK = ["running", "paused"];

export async function render(root, { isOperator }) {
  const place = h("div");
  const chosen = h("select", { id: "run", change: () => refresh() });
  root.append(h("h1", {}, "Models"),
    h("p", { class: "hint" }, "After every round the server has a new version of the model. The last ones are kept, and the best one always."),
    h("div", { class: "filters" }, labelled("Run", chosen)), place);
  const runs = (await list("/runs")).map((one) => one.run);
  const asked = new URLSearchParams(location.search).get("run");
  chosen.append(...runs.map((run) => h("option", { selected: run === asked }, run)));

  async function refresh() {
    const run = chosen.value;
    const rows = run ? (await list(at("/runs", run, "models"))).reverse() : [];
    const record = run ? await get(at("/runs", run)) : null;
    if (run !== chosen.value) return; // another one is wanted by now
    const best = bestOf(rows);
    refill(place, table("Model versions", columns({ record, best, isOperator, refresh }), rows, "No version is kept yet."));
  }
  await keepFresh(refresh, { matters: (event) => ["round-closed", "run-status", "audit"].includes(event.kind) });
  return "Models";
}

/** The one that the server always keeps: the most accurate, of those the one of least loss, then the newest; rows are newest first. */
function bestOf(rows) {
  const tested = rows.filter((one) => one.accuracy !== null);
  return [...tested].sort((a, b) => b.accuracy - a.accuracy || (a.loss ?? Infinity) - (b.loss ?? Infinity))[0];
}

function columns({ record, best, isOperator, refresh }) {
  const run = record?.run;
  const file = (one, name) => at("/api/v1/runs", run, "models", one.version, name);
  const all = [
    { name: "Version", cell: (one) => [String(one.version), " ", one.promoted ? badge("promoted") : null, one === best ? badge("best") : null] },
    { name: "Round", number: true, cell: (one) => String(one.round) },
    { name: "Made", cell: (one) => h("span", { title: moment(one.at) }, ago(one.at)) },
    { name: "Accuracy", number: true, cell: (one) => share(one.accuracy) },
    { name: "Loss", number: true, cell: (one) => figure(one.loss) },
    { name: "Size", number: true, cell: (one) => bytes(one.size) },
    { name: "Download", cell: (one) => [h("a", { href: file(one, "model.safetensors"), download: true, "aria-label": `Weights of version ${one.version}` }, "weights"), " \u00b7 ", h("a", { href: file(one, "predict.onnx"), download: true, "aria-label": `ONNX of version ${one.version}` }, "ONNX")] },
  ];
  if (isOperator) all.push({ name: "Actions", cell: (one) => actions(record, one, refresh) });
  return all;
}

function actions({ run, status }, { version, promoted }, refresh) {
  const promote = {
    title: `Promote version ${version}?`,
    text: "Devices use it from now on to answer with; training goes on as it was.",
    yes: "Promote",
  };
  const back = {
    title: `Roll back to version ${version}?`,
    text: "The next round starts from it, and becomes a new version. Versions in between stay.",
    yes: "Roll back",
  };
  const ask = (question, path, body) => async () => {
    if (await confirmed(question, () => order(path, body))) await refresh();
  };
  return h("span", { class: "actions" },
    promoted ? null : h("button", { type: "button", id: `promote-${version}`, click: ask(promote, at("/runs", run, "models", version, "promote"), null), "aria-label": `Promote version ${version}` }, "Promote"),
    TAKES_ROLL_BACK.includes(status) && h("button", { type: "button", id: `back-${version}`, click: ask(back, at("/runs", run, "roll-back"), { version }), "aria-label": `Roll back to version ${version}` }, "Roll back"));
}
