// Fields of a form with words of help, and with the server's words where a value was refused.

import { h } from "/assets/static/elements.js";

/**
 * A field `{ place, label, help, options, needed }` around `input`, or around an input for a number. `say(text)` shows
 * what is wrong with it, null for nothing.
 */
export function field({ place, label, help, options = null, needed = false }, input = null) {
  const id = `field-${place.replaceAll(".", "-")}`;
  const control = input ?? (options ? choice(options) : h("input", { type: "number", step: "any" }));
  const problem = h("p", { id: `${id}-problem`, class: "problem", role: "alert", hidden: true });
  control.id = id;
  control.required = needed;
  control.setAttribute("aria-describedby", `${id}-help ${id}-problem`);
  const hint = h("p", { id: `${id}-help`, class: "hint" }, help);
  const element = h("div", { class: "field" }, h("label", { for: id }, label), control, problem, hint);

  function say(text) {
    problem.textContent = text ?? "";
    problem.hidden = text === null;
    control.setAttribute("aria-invalid", String(text !== null));
  }
  return { place, element, control, hint, say };
}

/** A select of values with their words. */
export function choice(options) {
  const select = h("select");
  offerChoices(select, Object.entries(options));
  return select;
}

/** Let a select offer these, `[value, words]`; what was chosen stays chosen where it is among them. */
export function offerChoices(select, options) {
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, words]) => h("option", { value }, words)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

/** A group of fields with a heading. */
export function fieldset(title, ...children) {
  return h("fieldset", {}, h("legend", {}, title), ...children);
}

/** The value that was typed or chosen: a number, a text, or undefined where it was left empty. */
export function valueOf({ control }) {
  const text = control.value.trim();
  if (text === "") return undefined;
  return control.type === "number" ? Number(text) : text;
}

/**
 * Say each of `errors`, `{ place, message }`, at its field and go to the first; those of places that have no field are
 * said at `rest`. Returns whether there were any.
 */
export function sayErrors(fields, errors, rest) {
  const wrong = errors.map(({ place, message }) => {
    const at = fields.find((one) => names(one.place, place)) ?? rest;
    at.say(message);
    return at;
  });
  wrong[0]?.control.focus();
  return wrong.length > 0;
}

/** `body.config.privacy.epsilon`, `privacy.epsilon` and `epsilon` are all of the field `privacy.epsilon`. */
function names(field, place) {
  const plain = place.replace(/^body\./, "");
  return field === plain || field.endsWith(`.${plain}`);
}
