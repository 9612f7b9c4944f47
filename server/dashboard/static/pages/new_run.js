// A new run: of which model, for how long, with what promised; then it is started, or waits.

import { at, get, order, Problem, upload } from "/assets/static/api.js";
import { bundleChoice } from "/assets/static/bundle_choice.js";
import { h } from "/assets/static/elements.js";
import { field, fieldset, sayErrors, valueOf } from "/assets/static/form_fields.js";
import { promiseChoice } from "/assets/static/promise_choice.js";
import { startIfWanted } from "/assets/static/run_actions.js";
import { SECTIONS } from "/assets/static/run_settings.js";

export async function render(root, { isOperator }) {
  root.append(h("h1", {}, "New run"));
  if (!isOperator) {
    root.append(h("p", {}, "Making runs takes an operator's token. ", h("a", { href: "/runs" }, "All runs")));
    return "New run";
  }
  const [bundle, promise] = [bundleChoice(), promiseChoice()];
  const name = field({ place: "run", label: "Name", needed: true, help: "Letters, digits, - and _, at most 64. It cannot be changed." },
    h("input", { maxlength: "64", pattern: "[A-Za-z0-9][A-Za-z0-9_\\-]*", autocomplete: "off", spellcheck: "false" }));
  const test = field({ place: "test", label: "Held-out examples", help: "A .npz file with arrays x and y that no device has. Without it nobody knows how good the model is." },
    h("input", { type: "file", accept: ".npz" }));
  const [settings, defaults] = [SECTIONS.map(({ fields }) => fields.map((one) => field(one))), await get("/run-defaults")];
  const advanced = advancedField(defaults);
  for (const one of settings.flat()) showDefault(one, defaults);
  await bundle.fill();

  const fixed = h("div", {},
    fieldset("Model", bundle.chosen.element, bundle.added.element, name.element),
    SECTIONS.map(({ title }, index) => fieldset(title, settings[index].map((one) => one.element))),
    fieldset("Privacy", promise.element),
    advanced.element);
  const made = h("p", { class: "notice", role: "status", hidden: true });
  const parts = { bundle, name, settings: settings.flat(), promise, test, advanced, fixed, made };
  root.append(h("form", { class: "settings", submit: (event) => submit(event, parts) },
    fixed, made, fieldset("Test", test.element),
    h("p", { class: "problem", role: "alert", hidden: true }),
    h("button", { class: "primary" }, "Make the run")));
  return "New run";
}

function showDefault({ place, control }, defaults) {
  if (control.tagName === "SELECT") control.value = defaults[place];
  else control.placeholder = String(defaults[place]);
}

/** The rest of the configuration, as text; folded away until something is wrong with it. */
function advancedField(defaults) {
  const one = field({ place: "advanced", label: "More of the configuration, as JSON", help: "Names and values as the HTTP interface has them. What is left out is:" },
    h("textarea", { rows: "6", spellcheck: "false", placeholder: '{"precision": "int8", "top_k": 0.1}' }));
  one.element.append(h("pre", { tabindex: "0", role: "region", "aria-label": "Defaults" }, JSON.stringify(defaults, null, 2)));
  const element = h("details", {}, h("summary", {}, "Advanced settings"), one.element);

  function say(text) {
    if (text !== null) element.open = true;
    one.say(text);
  }
  return { ...one, element, say };
}

async function submit(event, parts) {
  event.preventDefault();
  const form = event.currentTarget;
  const [summary, button] = [form.querySelector(":scope > .problem"), form.querySelector(":scope > button")];
  const fields = [parts.bundle.chosen, parts.name, ...parts.settings, ...parts.promise.fields, parts.test, parts.advanced];
  for (const one of fields) one.say(null);
  summary.hidden = true;
  button.disabled = true;
  try {
    const run = valueOf(parts.name);
    await make(run, parts);
    await startIfWanted(run);
    location.assign(at("/runs", run));
  } catch (problem) {
    const placed = sayErrors(fields, problem.errors ?? [], parts.advanced);
    summary.textContent = problem.message;
    summary.hidden = placed;
  } finally {
    button.disabled = false;
  }
}

/** Make the run, unless the last try did, and give it its examples. */
async function make(run, parts) {
  if (!parts.fixed.inert) {
    await order("/runs", { run, bundle: valueOf(parts.bundle.chosen), config: configuration(parts) }).catch(nameTaken);
    parts.fixed.inert = true;
    parts.made.textContent = `${run} is made; only its examples can still be chosen here.`;
    parts.made.hidden = false;
  }
  const [file] = parts.test.control.files;
  if (file) await upload(at("/runs", run, "held-out"), file);
}

function nameTaken(problem) {
  if (problem.status === 409) problem.errors = [{ place: "run", message: problem.message }];
  throw problem;
}

function configuration({ settings, promise, advanced }) {
  const config = parsed(advanced.control.value.trim() || "{}");
  const twice = [...settings.map((one) => one.place), "run", "privacy"].find((place) => Object.hasOwn(config, place));
  if (twice) throw refused(`${twice} has a field of its own above.`);
  for (const one of settings) {
    const value = valueOf(one);
    if (value !== undefined) config[one.place] = value;
  }
  return { ...config, privacy: promise.value() };
}

function parsed(text) {
  let config = null;
  try {
    config = JSON.parse(text);
  } catch (error) {
    throw refused(`This is not JSON: ${error.message}`);
  }
  if (config === null || typeof config !== "object" || Array.isArray(config)) throw refused("This must be an object: {\"name\": value}.");
  return config;
}

function refused(message) {
  return new Problem(422, message, [{ place: "advanced", message }]);
}
