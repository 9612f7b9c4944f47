// Who is in the fleet: online or not, how they are, what they run, what they kept, what was wrong.

import { list } from "/assets/static/api.js";
import { badge, figures, h, labelled, noted, refill } from "/assets/static/elements.js";
import { growingTable } from "/assets/static/growing_table.js";
import { keepFresh } from "/assets/static/live.js";
import { ago, bytes, count, counted, figure, moment, NONE } from "/assets/static/words.js";

const MOST_GROUPS = 3;

export async function render(root) {
  const summary = h("div");
  const devices = growingTable("Devices", COLUMNS);
  const search = h("input", { id: "search", type: "search", input: draw, placeholder: "name or tag" });
  const only = h("select", { id: "only", change: draw },
    ["all devices", "online", "offline", "resting", "with faults"].map((words) => h("option", {}, words)));
  const order = h("select", { id: "order", change: draw }, Object.keys(ORDERS).map((words) => h("option", {}, words)));
  let all = [];
  root.append(h("h1", {}, "Fleet"), summary,
    h("div", { class: "filters" }, labelled("Search", search), labelled("Show", only), labelled("Order", order)), devices.element);

  function draw() {
    const found = all.filter((one) => matches(one, search.value.trim().toLowerCase(), only.value)).sort(ORDERS[order.value]);
    devices.show(found, all.length ? "No device is like that." : "No device has been heard yet.");
  }

  async function refresh() {
    all = await list("/devices");
    refill(summary, figures(cards(all)));
    draw();
  }
  await keepFresh(refresh, { matters: (event) => event.device !== null || event.kind === "round-closed" });
  return "Fleet";
}

function cards(all) {
  const online = all.filter((one) => one.online);
  const examples = online.reduce((sum, one) => sum + (one.heard?.examples ?? 0), 0);
  const faulty = all.filter(hasFaults).length;
  const resting = online.filter((one) => one.heard?.paused).length;
  return [
    ["Online", `${count(online.length)} of ${count(all.length)}`, "devices"],
    ["Examples", count(examples), "to learn from on devices that are online; they never leave their device"],
    ["Resting", count(resting), resting ? "devices that are online sit out now, within their owners' limits" : "no device sits out"],
    ["Faults", count(faulty), faulty ? "devices are revoked, quarantined or in conflict" : "no device has any"],
  ];
}

const COLUMNS = [
  { name: "Device", cell: (one) => [one.id, (one.tags ?? []).map((tag) => h("span", { class: "tag" }, tag))] },
  { name: "Status", cell: status },
  { name: "Last seen", cell: (one) => (one.heard ? h("span", { title: moment(one.heard.last_seen) }, one.online ? "now" : ago(one.heard.last_seen)) : "never") },
  { name: "Temperature", number: true, cell: temperature },
  { name: "Privacy budget left", number: true, cell: (one) => budget(one.heard?.budget_left) },
  { name: "Free disk", number: true, cell: (one) => (Number.isFinite(one.heard?.free_mb) ? bytes(one.heard.free_mb * 1e6) : NONE) },
  { name: "Software", cell: (one) => noted(one.heard?.client || NONE, one.heard?.release && `release ${one.heard.release}`) },
  { name: "Runtime", cell: (one) => one.heard?.runtime || NONE },
  { name: "Examples", number: true, cell: (one) => (one.heard ? count(one.heard.examples) : NONE) },
  { name: "Neurons kept", cell: (one) => kept(one.heard?.kept ?? {}) },
  { name: "Faults", cell: faults },
];

/** Those that do not tell come last. */
const ORDERS = {
  "by name": (a, b) => (a.id < b.id ? -1 : 1),
  "hottest first": (a, b) => (b.heard?.temperature ?? -Infinity) - (a.heard?.temperature ?? -Infinity),
  "least budget first": (a, b) => (a.heard?.budget_left ?? Infinity) - (b.heard?.budget_left ?? Infinity),
  "least disk first": (a, b) => (a.heard?.free_mb ?? Infinity) - (b.heard?.free_mb ?? Infinity),
  "longest silent first": (a, b) => (a.heard?.last_seen ?? 0) - (b.heard?.last_seen ?? 0),
};

function status(one) {
  const standing = one.standing === "enrolled" || !one.standing ? (one.online ? "online" : "offline") : one.standing;
  const rests = one.online && one.heard?.paused;
  return noted(badge(standing), rests && `resting: ${one.heard.paused}`);
}

function temperature(one) {
  const degrees = one.heard?.temperature;
  const known = Number.isFinite(degrees) ? `${degrees.toFixed(0)} \u00b0C` : NONE;
  return noted(known, one.heard?.throttled && "slowed down by heat or weak power");
}

function budget(epsilon) {
  return Number.isFinite(epsilon) ? h("span", { title: "epsilon that the owner's cap leaves" }, figure(epsilon)) : NONE;
}

function kept(widths) {
  const groups = Object.entries(widths);
  if (!groups.length) return NONE;
  if (groups.length <= MOST_GROUPS) return groups.map(([group, width]) => `${group} ${count(width)}`).join(", ");
  const sum = groups.reduce((total, [, width]) => total + width, 0);
  return `${counted(sum, "neuron")} in ${groups.length} groups`;
}

function hasFaults(one) {
  return Boolean(one.heard?.conflicts) || ["revoked", "quarantined"].includes(one.standing);
}

function faults(one) {
  const conflicts = one.heard?.conflicts ?? 0;
  if (!conflicts) return one.standing === "quarantined" ? "quarantined" : NONE;
  const why = "Other updates were announced in its name: was its key copied, or was it restored from a backup?";
  return h("span", { title: why }, counted(conflicts, "conflicting update"));
}

function matches(one, text, only) {
  const named = [one.id, ...(one.tags ?? [])].some((word) => word.toLowerCase().includes(text));
  const kind = { online: one.online, offline: !one.online, resting: one.online && Boolean(one.heard?.paused), "with faults": hasFaults(one) }[only] ?? true;
  return named && kind;
}
