// What devices run: releases of the client that are here, to whom they are offered, and what became of it.

import { at, list, order } from "/assets/static/api.js";
import { confirmed } from "/assets/static/confirm.js";
import { badge, h, labelled, noted, refill, section, table } from "/assets/static/elements.js";
import { growingTable } from "/assets/static/growing_table.js";
import { keepFresh } from "/assets/static/live.js";
import { offerForm } from "/assets/static/offer_form.js";
import { ago, bytes, count, counted, moment, NONE } from "/assets/static/words.js";

export async function render(root, { isOperator }) {
  const [offers, here, devices] = [h("div"), h("div"), growingTable("Devices", DEVICES)];
  const only = h("select", { id: "only", change: draw }, Object.keys(KINDS).map((words) => h("option", {}, words)));
  const columns = isOperator ? [...OFFERS, halting(() => refresh())] : OFFERS;
  const form = isOperator ? await offerForm(() => refresh()) : null;
  let reports = [];
  root.append(h("h1", {}, "Updates"),
    h("p", { class: "hint" }, "A release is a version of the program on the devices. Devices whose owners allow it take it between two rounds, and go back by themselves where it does not work."),
    section("Offers", offers), form?.element ?? "", section("Releases", here),
    section("Devices", h("div", { class: "filters" }, labelled("Show", only)), devices.element));

  function draw() {
    devices.show(reports.filter(KINDS[only.value]), reports.length ? "No device is like that." : "No device has said yet what it runs.");
  }

  async function refresh() {
    const [rollouts, releases, said] = await Promise.all([list("/rollouts"), list("/releases"), list("/release-reports")]);
    reports = said;
    refill(offers, table("Offers", columns, rollouts, "No release was offered yet."));
    refill(here, table("Releases", RELEASES, releases, "No release is here yet: fisherfleet devices make-release makes one."));
    form?.fill([...new Set(releases.map((one) => one.version))]);
    draw();
  }
  await keepFresh(refresh, { matters: (event) => ["release-halted", "audit"].includes(event.kind) });
  return "Updates";
}

const KINDS = {
  "all devices": () => true,
  "on their way": (one) => ["waiting", "fetching", "ready", "trial"].includes(one.status),
  "failed or refused": (one) => ["failed", "refused"].includes(one.status),
};

const OFFERS = [
  { name: "Offer", cell: (one) => noted(one.version, `no. ${one.id}`) },
  { name: "To", cell: (one) => whom(one) },
  { name: "Status", cell: (one) => noted(badge(standing(one)), one.reason) },
  { name: "Offered now", number: true, cell: (one) => `${count(one.offered)} of ${count(one.members)}` },
  { name: "Confirmed", number: true, cell: (one) => count(one.confirmed) },
  { name: "On trial", number: true, cell: (one) => count(one.trying) },
  { name: "Failed", number: true, cell: (one) => count(one.failed) },
  { name: "Ordered", cell: (one) => h("span", { title: moment(one.at) }, `by ${one.actor}, ${ago(one.at)}`) },
];

const RELEASES = [
  { name: "Version", cell: (one) => one.version },
  { name: "System", cell: (one) => one.system },
  { name: "Python", cell: (one) => one.python },
  { name: "Processor", cell: (one) => one.architecture },
  { name: "Size", number: true, cell: (one) => bytes(one.size) },
  { name: "Added", cell: (one) => h("span", { title: moment(one.at) }, ago(one.at)) },
];

const DEVICES = [
  { name: "Device", cell: (one) => one.device },
  { name: "Runs", cell: (one) => one.version },
  { name: "Was offered", cell: (one) => one.offered || NONE },
  { name: "What became of it", cell: (one) => (one.status === "none" ? NONE : noted(badge(one.status), one.reason)) },
  { name: "Models it infers with", cell: (one) => Object.entries(one.models).map(([run, version]) => `${run} ${version}`).join(", ") || NONE },
  { name: "Said", cell: (one) => h("span", { title: moment(one.at) }, ago(one.at)) },
];

function whom({ devices, tag }) {
  if (tag !== null) return `devices tagged ${tag}`;
  return devices.length ? h("span", { title: devices.join(", ") }, counted(devices.length, "device")) : "all devices";
}

function standing({ status, members, confirmed: proven }) {
  return status === "going" && members > 0 && proven === members ? "confirmed" : status;
}

function halting(refresh) {
  return { name: "Actions", cell: ({ id, version, status }) => {
    if (status !== "going") return NONE;
    const question = { title: `Halt the offer of ${version}?`, text: "It is offered to nobody any more. Devices that have it keep it.", yes: "Halt" };
    const ask = async () => {
      if (await confirmed(question, () => order(at("/rollouts", id, "halt")))) await refresh();
    };
    return h("button", { type: "button", id: `halt-${id}`, click: ask, "aria-label": `Halt offer ${id}` }, "Halt");
  } };
}
