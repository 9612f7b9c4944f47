// Log in with a token, which becomes a cookie that no script can read.

import { session } from "/assets/static/api.js";
import { h } from "/assets/static/elements.js";

export async function render(root) {
  const input = h("input", { id: "token", type: "password", required: true, autocomplete: "current-password", spellcheck: "false", maxlength: "128" });
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const form = h("form", { class: "login", submit: logIn },
    h("h1", {}, "Log in"),
    h("label", { for: "token" }, "Access token"),
    input,
    h("p", { class: "hint" }, "Make one on the server's machine: ", h("code", {}, "fisherfleet tokens create NAME --role viewer")),
    problem,
    h("button", { class: "primary" }, "Log in"));

  async function logIn(event) {
    event.preventDefault();
    try {
      await session("/login", { token: input.value.trim() });
      location.assign(next());
    } catch (error) {
      problem.textContent = error.status === 401 ? "This token is unknown, revoked or expired." : error.message;
      problem.hidden = false;
      input.select();
    }
  }
  root.append(form);
  input.focus();
  return "Log in";
}

/** Where to go then: only to a page of this server. */
function next() {
  const wanted = new URL(new URLSearchParams(location.search).get("next") ?? "/", location.origin);
  return wanted.origin === location.origin ? wanted.pathname + wanted.search : "/";
}
