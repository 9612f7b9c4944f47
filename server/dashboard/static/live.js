// A page that stays up to date: what happens in the fleet comes as server-sent events, and the page reads afresh.

const AT_MOST_EVERY = 1000; // milliseconds between two readings
const ANYWAY_EVERY = 30000;

/**
 * Call `refresh` now, after events that `matters` (at most once a second), and twice a minute. Returns the promise of
 * the first reading. `onEvent` is told each event that comes.
 */
export function keepFresh(refresh, { filter = "", matters = () => true, onEvent = () => {} } = {}) {
  const light = document.getElementById("live");
  let due = null;
  let reading = null;

  function read() {
    reading ??= refresh().catch(report).finally(() => {
      reading = null;
    });
    return reading;
  }

  function soon() {
    due ??= setTimeout(async () => {
      due = null;
      await reading;
      await read();
    }, AT_MOST_EVERY);
  }

  const source = new EventSource(`/api/v1/events/stream${filter}`);
  source.onopen = () => {
    say(light, "live");
    soon(); // what happened between the first reading and now
  };
  source.onerror = () => say(light, "reconnecting");
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    onEvent(event);
    if (matters(event)) soon();
  };
  setInterval(soon, ANYWAY_EVERY);
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  return read();
}

/** Show what went wrong at the top of the page, until something goes right. */
export function report(problem) {
  if (problem.status === 401) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
    return;
  }
  if (problem.status === undefined) console.error(problem); // a mistake of these pages
  const place = document.getElementById("problem");
  if (place) {
    place.textContent = problem.message;
    place.hidden = false;
  }
}

function say(light, state) {
  light.hidden = false;
  light.className = `live ${state}`;
  light.textContent = state === "live" ? "Live" : "Reconnecting";
}
