// A form that adds a release from this machine, and one that offers a release to devices.

import { list, order } from "/assets/static/api.js";
import { confirmed } from "/assets/static/confirm.js";
import { h, section } from "/assets/static/elements.js";
import { field, fieldset, offerChoices, sayErrors, valueOf } from "/assets/static/form_fields.js";
import { uploadField } from "/assets/static/upload_field.js";

/** The forms as `element`; `fill(versions)` says what can be offered, `done()` is called after an order. */
export async function offerForm(done) {
  const tags = new Set((await list("/devices")).flatMap((one) => one.tags ?? []));
  const words = { place: "release", label: "Add a release from this machine", help: "The file that fisherfleet devices make-release wrote. Nobody is offered it yet." };
  const added = uploadField(words, ".release,.tar", "/releases", async (release) => {
    await done();
    version.control.value = release.version;
    return `Release ${release.version} for ${release.system} is here.`;
  });
  const version = field({ place: "version", label: "Version", needed: true, help: "For each system that it was made for." }, h("select"));
  const tag = field({ place: "tag", label: "To", help: "Devices get tags by fisherfleet devices tag." }, h("select"));
  offerChoices(tag.control, [["", "all devices"], ...[...tags].sort().map((one) => [one, `devices tagged ${one}`])]);
  const fraction = field({ place: "fraction", label: "First to this share", help: "Above 0, at most 1. The rest is offered it by itself once nine of ten of those have confirmed it." });
  const haltAt = field({ place: "halt_at", label: "Halt above this share of failures", help: "0 to 1, of the devices that took it." });
  const again = field({ place: "again", label: "Where it failed before", help: "Say so where devices failed for want of a link.", options: { "": "not again", yes: "try again" } });
  const fields = [version, tag, fraction, haltAt, again];
  fraction.control.placeholder = "1";
  haltAt.control.placeholder = "0.1";
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const form = h("form", { class: "settings", submit: offer },
    fieldset("Offer", fields.map((one) => one.element)), problem, h("button", { class: "primary" }, "Offer"));

  function fill(versions) {
    const none = versions.length ? [] : [["", "None is here yet: add one above"]];
    offerChoices(version.control, [...none, ...versions.map((one) => [one, one])]);
  }

  async function offer(event) {
    event.preventDefault();
    for (const one of fields) one.say(null);
    problem.hidden = true;
    const wanted = { version: valueOf(version), tag: valueOf(tag) ?? null, fraction: valueOf(fraction), halt_at: valueOf(haltAt), again: valueOf(again) === "yes" };
    const question = {
      title: `Offer release ${wanted.version}?`,
      text: `${wanted.tag ? `Devices tagged ${wanted.tag}` : "All devices"} whose owners allow it take it between two rounds.`,
      yes: "Offer",
    };
    let refused = null;
    const tried = async () => order("/rollouts", wanted).catch((error) => { refused = error; });
    if (!await confirmed(question, tried)) return;
    if (refused === null) {
      await done();
    } else if (!sayErrors(fields, refused.errors ?? [], version)) {
      problem.textContent = refused.message;
      problem.hidden = false;
    }
  }
  return { element: section("Offer a release", h("div", { class: "settings" }, fieldset("Add", added.element)), form), fill };
}
