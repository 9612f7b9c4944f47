// The bundles that are here, as a field of a form; one more can be added from this machine.

import { list } from "/assets/static/api.js";
import { h } from "/assets/static/elements.js";
import { field, offerChoices } from "/assets/static/form_fields.js";
import { uploadField } from "/assets/static/upload_field.js";
import { bytes, count } from "/assets/static/words.js";

const SHOWN_ID = 8;

/** Fields to choose a bundle with, in this order: one that is here, or a file. `fill()` reads which are. */
export function bundleChoice() {
  const chosen = field({
    place: "bundle", label: "Bundle", needed: true,
    help: "A model as devices train it, made by fisherfleet export.",
  }, h("select"));
  const added = uploadField({
    place: "archive", label: "Or add one from this machine",
    help: "The folder that fisherfleet export wrote, as a .zip, .tar or .tar.gz.",
  }, ".zip,.tar,.gz,.tgz", "/bundles", async ({ id, model }) => {
    await fill(id);
    chosen.say(null);
    return `${model} is here, and chosen.`;
  });

  async function fill(wanted = "") {
    const bundles = await list("/bundles");
    const none = ["", bundles.length ? "Choose one" : "There is none yet: add one below"];
    offerChoices(chosen.control, [none, ...bundles.map((one) => [one.id, words(one)])]);
    chosen.control.value = wanted;
  }
  return { chosen, added, fill };
}

function words({ id, model, input_shape: shape, parameters, bytes: size }) {
  return `${model}, of examples ${shape.join(" x ")}: ${count(parameters)} parameters, ${bytes(size)} (${id.slice(0, SHOWN_ID)})`;
}
