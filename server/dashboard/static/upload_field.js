// A field whose file is sent as soon as it is chosen.

import { upload } from "/assets/static/api.js";
import { h } from "/assets/static/elements.js";
import { field } from "/assets/static/form_fields.js";

/** The field `words`, for files that `accept` names, sent to `path`; `done(answer)` takes it in and tells what to say. */
export function uploadField(words, accept, path, done) {
  const file = h("input", { type: "file", accept, change: send });
  const one = field(words, file);
  const news = h("p", { class: "hint", role: "status" });
  one.element.append(news);

  async function send() {
    if (!file.files.length) return;
    one.say(null);
    news.textContent = "Being sent and verified\u2026";
    file.disabled = true;
    try {
      news.textContent = await done(await upload(path, file.files[0]));
    } catch (error) {
      one.say(error.message);
      news.textContent = "";
    } finally {
      file.disabled = false;
    }
  }
  return one;
}
