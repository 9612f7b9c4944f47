// Quantities as people read them.

export const NONE = "\u2013";

/** Bytes with three significant digits in decimal units: 999 B, 1.00 kB, 12.3 MB. */
export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 999.5 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || count >= 99.95 ? 0 : count >= 9.995 ? 1 : 2;
  return `${count.toFixed(digits)} ${units[unit]}`;
}

/** How much less was sent than whole models take: "122 x less than whole models". */
export function saving(sent, dense) {
  if (!sent || !dense) return NONE;
  const fewer = sent <= dense;
  const ratio = fewer ? dense / sent : sent / dense;
  return `${ratio.toFixed(ratio >= 99.95 ? 0 : 1)} x ${fewer ? "less" : "more"} than whole models`;
}

/** A fraction as a percentage: 96.1 %. */
export function share(fraction, digits = 1) {
  return fraction === null || fraction === undefined ? NONE : `${(100 * fraction).toFixed(digits)} %`;
}

/** A number with a space between thousands. */
export function count(number) {
  return Number(number).toLocaleString("en-GB");
}

/** A count of things: 1 device, 3 devices. */
export function counted(number, thing) {
  return `${count(number)} ${thing}${number === 1 ? "" : "s"}`;
}

/** A number with four significant digits. */
export function figure(number) {
  return number === null || number === undefined ? NONE : Number(number.toPrecision(4)).toString();
}

/** A time span: 8 s, 1 min 42 s, 2 h 05 min, 3 days. */
export function span(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${seconds < 9.95 ? Number(seconds.toFixed(1)) : whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${String(whole % 60).padStart(2, "0")} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${String(minutes % 60).padStart(2, "0")} min` : `${Math.floor(hours / 24)} days`;
}

/** How long ago a moment (seconds since 1970) was: "just now", "4 minutes ago". */
export function ago(at, now = Date.now() / 1000) {
  const seconds = Math.max(0, now - at);
  if (seconds < 10) return "just now";
  const steps = [[60, 1, "second"], [3600, 60, "minute"], [172800, 3600, "hour"], [Infinity, 86400, "day"]];
  const [, unit, word] = steps.find(([most]) => seconds < most);
  return `${counted(Math.floor(seconds / unit), word)} ago`;
}

/** Date and time of a moment as the reader's system writes them. */
export function moment(at) {
  return new Date(at * 1000).toLocaleString();
}
