// What happened, the newest first, as it happens.

import { get } from "/assets/static/api.js";
import { badge, h, labelled, refill, table } from "/assets/static/elements.js";
import { keepFresh, report } from "/assets/static/live.js";
import { ago, moment, NONE } from "/assets/static/words.js";

const KINDS = {
  "all kinds": [],
  "rounds": ["round-opened", "round-closed", "round-abandoned"],
  "runs": ["run-created", "run-status"],
  "devices": ["device-online", "device-offline", "device-enrolled", "device-revoked", "device-quarantined", "release-halted"],
  "refused updates": ["update-refused"],
  "alerts": ["alert"],
  "who did what": ["audit"],
};
const PAGE = 100;

export async function render(root) {
  const place = h("div");
  const given = new URLSearchParams(location.search);
  const kind = h("select", { id: "kind", change: fromStart }, Object.keys(KINDS).map((words) => h("option", {}, words)));
  const [run, device] = ["run", "device"].map((id) => h("input", { id, value: given.get(id) ?? "", maxlength: "64", autocomplete: "off", change: fromStart }));
  const older = h("button", { type: "button", hidden: true, click: () => readOlder().catch(report) }, "Show older");
  let events = [];
  root.append(h("h1", {}, "Events"), h("div", { class: "filters" },
    labelled("Show", kind), labelled("Run", run), labelled("Device", device)), place, older);

  function query(more = {}) {
    const wanted = new URLSearchParams({ limit: PAGE, ...more });
    for (const name of KINDS[kind.value]) wanted.append("kind", name);
    for (const [name, input] of Object.entries({ run, device })) if (input.value.trim()) wanted.set(name, input.value.trim());
    return `/events?${wanted}`;
  }

  function draw() {
    refill(place, table("Events", COLUMNS, events, "Nothing of this kind has happened yet."));
  }

  function fromStart() {
    events = [];
    return refresh().catch(report);
  }

  async function refresh() {
    const asked = query();
    const page = await get(asked);
    if (asked !== query()) return; // something else is wanted by now
    const known = new Set(page.items.map((event) => event.id));
    const last = page.items.at(-1)?.id ?? 0;
    events = [...page.items, ...events.filter((event) => !known.has(event.id) && event.id < last)];
    older.hidden = page.next === null;
    draw();
  }

  async function readOlder() {
    const asked = query({ after: events.at(-1).id });
    const page = await get(asked);
    if (asked !== query({ after: events.at(-1)?.id })) return;
    events = [...events, ...page.items];
    older.hidden = page.next === null;
    draw();
  }

  await keepFresh(refresh);
  return "Events";
}

const COLUMNS = [
  { name: "When", cell: (event) => h("time", { datetime: new Date(event.at * 1000).toISOString(), title: moment(event.at) }, ago(event.at)) },
  { name: "What", cell: (event) => badge(event.kind.replaceAll("-", " ")) },
  { name: "Run", cell: (event) => (event.run ? [event.run, event.round ? `, round ${event.round}` : ""] : NONE) },
  { name: "Device", cell: (event) => event.device ?? NONE },
  { name: "By", cell: (event) => event.actor ?? NONE },
  { name: "Details", cell: (event) => event.text },
];
