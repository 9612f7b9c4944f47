// What a run promises about privacy: it must be said, and a promise takes figures of its own.

import { h } from "/assets/static/elements.js";
import { choice, field, valueOf } from "/assets/static/form_fields.js";
import { PROMISE_FIELDS, PROMISES } from "/assets/static/run_settings.js";

const UNSAID = "Nothing is assumed: say what the devices' owners are promised.";

/** The field that says which, and those that go with it; `value()` is the configuration's `privacy`. */
export function promiseChoice() {
  const labels = Object.fromEntries(Object.entries(PROMISES).map(([word, { label }]) => [word, label]));
  const which = field({ place: "privacy", label: "Privacy", needed: true, help: UNSAID }, choice({ "": "Say which", ...labels }));
  const figures = PROMISE_FIELDS.map((one) => field(one));
  which.control.addEventListener("change", show);
  show();

  function wanted() {
    return PROMISES[which.control.value]?.fields ?? [];
  }

  function show() {
    which.hint.textContent = PROMISES[which.control.value]?.help ?? UNSAID;
    for (const one of figures) {
      const isWanted = wanted().includes(last(one.place));
      one.element.hidden = !isWanted;
      one.control.disabled = !isWanted;
    }
  }

  function value() {
    const word = which.control.value;
    if (word === "none") return word;
    const given = figures.filter((one) => wanted().includes(last(one.place)));
    return { type: word, ...Object.fromEntries(given.map((one) => [last(one.place), valueOf(one)])) };
  }
  return { element: h("div", { class: "fields" }, which.element, figures.map((one) => one.element)), fields: [which, ...figures], value };
}

function last(place) {
  return place.split(".").at(-1);
}
