// The shell: who is logged in, where we are, and the page that belongs to the path.

import { get, session } from "/assets/static/api.js";
import { h } from "/assets/static/elements.js";
import { report } from "/assets/static/live.js";

const PAGES = [
  [/^\/$/, "fleet"],
  [/^\/runs$/, "runs"],
  [/^\/runs\/([^/]+)$/, "run"],
  [/^\/new-run$/, "new_run"],
  [/^\/models$/, "models"],
  [/^\/updates$/, "updates"],
  [/^\/events$/, "events"],
  [/^\/login$/, "login"],
];

async function open() {
  const main = document.getElementById("main");
  const [match, name] = page(location.pathname);
  const { render } = await import(`/assets/static/pages/${name}.js`);
  const problem = h("p", { id: "problem", class: "problem", role: "alert", hidden: true });
  const root = h("div");
  main.replaceChildren(problem, root);
  try {
    const me = name === "login" ? null : await get("/me");
    if (me) greet(me);
    const title = await render(root, { me, isOperator: me?.role === "operator", argument: decodeURIComponent(match[1] ?? "") });
    document.title = `${title} \u2013 Fisherfleet`;
  } catch (error) {
    report(error);
  }
  document.documentElement.dataset.ready = "true";
}

function page(path) {
  for (const [pattern, name] of PAGES) {
    const match = path.match(pattern);
    if (match) return [match, name];
  }
  return [["", ""], "fleet"];
}

function greet(me) {
  const nav = document.querySelector("nav");
  nav.hidden = false;
  for (const link of nav.querySelectorAll("a")) {
    const path = link.getAttribute("href");
    const here = path === "/" ? location.pathname === "/" : location.pathname.startsWith(path);
    if (here) link.setAttribute("aria-current", "page");
  }
  document.getElementById("who").textContent = `${me.name} (${me.role})`;
  const button = document.getElementById("logout");
  button.hidden = false;
  button.addEventListener("click", async () => {
    await session("/logout");
    location.assign("/login");
  });
}

open();
