// What an operator may do with a run, each asked for once more before it is done.

import { at, order } from "/assets/static/api.js";
import { confirmed } from "/assets/static/confirm.js";
import { h, refill } from "/assets/static/elements.js";

const ACTIONS = [
  {
    name: "start", label: "Start", when: ["created"],
    text: "Devices that are online begin to train this run's model.",
  },
  {
    name: "pause", label: "Pause", when: ["running"],
    text: "The round that is open goes on to its close; no other one opens until you resume.",
  },
  {
    name: "resume", label: "Resume", when: ["paused", "failed"],
    text: "Rounds open again.",
  },
  {
    name: "resync", label: "Resync now", when: ["running", "paused"],
    text: "In the next round every device gets the whole model and chooses its neurons afresh. That costs more bytes than other rounds.",
  },
  {
    name: "stop", label: "Stop", when: ["created", "running", "paused", "failed"], danger: true,
    text: "This is final: the run ends here, and what devices did in the open round is lost. Its model stays.",
  },
  {
    name: "clone", label: "Clone", when: ["created", "running", "paused", "finished", "stopped", "failed"],
    text: "Makes a new run with the same model, settings and test examples. It waits to be started.",
    field: "Name of the new run",
  },
];

/** A group of buttons; `show(run)` offers what the run's status allows, `done` is called after an action. */
export function runActions(done) {
  const element = h("div", { class: "actions", role: "group", "aria-label": "Actions" });
  let offered = "";

  function show(run) {
    const key = `${run.run} ${run.status}`;
    if (key === offered) return;
    offered = key;
    refill(element, ACTIONS.filter((action) => action.when.includes(run.status)).map((action) => button(action, run.run, done)));
  }
  return { element, show };
}

/** Ask whether a run that was made is to start now; returns whether it did. */
export function startIfWanted(run) {
  const { text } = ACTIONS.find((action) => action.name === "start");
  return confirmed({ title: `Start ${run} now?`, text, yes: "Start" }, () => order(at("/runs", run, "start")));
}

function button(action, run, done) {
  async function ask() {
    const question = { title: `${action.label} ${run}?`, text: action.text, yes: action.label, field: action.field ?? null };
    const body = (value) => (action.field ? { run: value } : null);
    let made = null;
    const was = await confirmed(question, async (value) => {
      await order(at("/runs", run, action.name), body(value));
      made = value;
    });
    if (was && action.field) location.assign(at("/runs", made));
    else if (was) done();
  }
  return h("button", { type: "button", id: `action-${action.name}`, class: action.danger && "danger", click: ask }, action.label);
}
