// Requests to the HTTP interface, by the cookie that the login set. A request that is refused throws its problem's words.

const ROOT = "/api/v1";
const MOST_PAGES = 20;

/**
 * What the interface answered when it was not what was asked for; `status` is 0 where nothing was heard, `errors` are
 * the places that it says are wrong, as `{ place, message }`.
 */
export class Problem extends Error {
  constructor(status, text, errors = []) {
    super(text);
    this.status = status;
    this.errors = errors;
  }
}

/** The JSON at a path under `/api/v1`. */
export async function get(path) {
  return (await ask("GET", ROOT + path)).json();
}

/** The JSON at a path, null where there is no such thing. */
export async function find(path) {
  try {
    return await get(path);
  } catch (problem) {
    if (problem.status === 404) return null;
    throw problem;
  }
}

/** All items of a list that comes in pages, up to 20,000. */
export async function list(path) {
  const items = [];
  let after = null;
  for (let page = 0; page < MOST_PAGES; page += 1) {
    const joint = path.includes("?") ? "&" : "?";
    const start = after === null ? "" : `&after=${encodeURIComponent(after)}`;
    const answer = await get(`${path}${joint}limit=1000${start}`);
    items.push(...answer.items);
    after = answer.next;
    if (after === null) break;
  }
  return items;
}

/** Order something; each call is one order, however often the network repeats it. */
export async function order(path, body = null) {
  return ask("POST", ROOT + path, body, { "Idempotency-Key": fresh() });
}

/** Send a file, as it is. */
export async function upload(path, file) {
  return (await ask("POST", ROOT + path, file)).json();
}

/** Log in or out: these are not under `/api/v1`. */
export async function session(path, body = null) {
  return ask("POST", path, body);
}

/** A part of a path: `at("/runs", name, "rounds")`. */
export function at(base, ...parts) {
  return [base, ...parts.map(encodeURIComponent)].join("/");
}

function fresh() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function ask(method, url, body = null, headers = {}) {
  const sent = { "X-Requested-With": "dashboard", ...headers };
  const isFile = body instanceof Blob;
  if (body !== null) sent["Content-Type"] = isFile ? "application/octet-stream" : "application/json";
  let answer;
  try {
    answer = await fetch(url, { method, headers: sent, body: body === null || isFile ? body : JSON.stringify(body) });
  } catch {
    throw new Problem(0, "The server does not answer.");
  }
  if (answer.ok) return answer;
  const { detail, errors } = await answer.json().catch(() => ({}));
  throw new Problem(answer.status, typeof detail === "string" ? detail : `The server answered ${answer.status}.`, errors);
}
