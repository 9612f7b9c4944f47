// The bundles that are here, as a field of a form; one more can be added from this machine.

import { list, upload } from "/assets/static/api.js";
import { h } from "/assets/static/elements.js";
import { field } from "/assets/static/form_fields.js";
import { bytes, count } from "/assets/static/words.js";

const SHOWN_ID = 8;

/** Fields to choose a bundle with, in this order: one that is here, or a file. `fill()` reads which are. */
export function bundleChoice() {
  const chosen = field({
    place: "bundle", label: "Bundle", needed: true,
    help: "A model as devices train it, made by fisherfleet export.",
  }, h("select"));
  const file = h("input", { type: "file", accept: ".zip,.tar,.gz,.tgz", change: add });
  const added = field({
    place: "archive", label: "Or add one from this machine",
    help: "The folder that fisherfleet export wrote, as a .zip, .tar or .tar.gz.",
  }, file);
  const news = h("p", { class: "hint", role: "status" });
  added.element.append(news);

  async function fill(wanted = "") {
    const bundles = await list("/bundles");
    const none = h("option", { value: "" }, bundles.length ? "Choose one" : "There is none yet: add one below");
    chosen.control.replaceChildren(none, ...bundles.map((one) => h("option", { value: one.id, selected: one.id === wanted }, words(one))));
  }

  async function add() {
    if (!file.files.length) return;
    added.say(null);
    news.textContent = "Being sent and verified\u2026";
    file.disabled = true;
    try {
      const { id, model } = await upload("/bundles", file.files[0]);
      await fill(id);
      chosen.say(null);
      news.textContent = `${model} is here, and chosen.`;
    } catch (error) {
      added.say(error.message);
      news.textContent = "";
    } finally {
      file.disabled = false;
    }
  }
  return { chosen, added, fill };
}

function words({ id, model, input_shape: shape, parameters, bytes: size }) {
  return `${model}, of examples ${shape.join(" x ")}: ${count(parameters)} parameters, ${bytes(size)} (${id.slice(0, SHOWN_ID)})`;
}
