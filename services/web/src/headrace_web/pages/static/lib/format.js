// Formats numbers, durations, times and states for people.

const NUMBER = new Intl.NumberFormat("en");
const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3,
});

/** Formats a number, also one that protobuf's JSON form has as text: 1,234. */
export function number(value) {
  return NUMBER.format(Number(value ?? 0));
}

/** Formats a large number in few characters: 1.2K. */
export function compact(value) {
  return COMPACT.format(Number(value ?? 0));
}

/** Formats a rate per second. */
export function rate(value) {
  const perSecond = Number(value ?? 0);
  return `${perSecond >= 10 || perSecond === 0 ? Math.round(perSecond) : perSecond.toFixed(1)}/s`;
}

/** Returns the seconds of a duration in protobuf's JSON form: "1.5s" is 1.5; null stays null. */
export function seconds(duration) {
  return duration ? Number.parseFloat(duration) : null;
}

/** Formats a duration in seconds: 12 ms, 3.4 s, 5 min 20 s, 2 h 3 min, 4 d 5 h. */
export function duration(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value < 0.001) return value <= 0 ? "0 ms" : "< 1 ms";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 10) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return pair(whole, 60, "min", 1, "s");
  if (whole < 86_400) return pair(whole, 3600, "h", 60, "min");
  return pair(whole, 86_400, "d", 3600, "h");
}

function pair(value, large, largeUnit, small, smallUnit) {
  const rest = Math.floor((value % large) / small);
  return `${Math.floor(value / large)} ${largeUnit}${rest ? ` ${rest} ${smallUnit}` : ""}`;
}

/** Formats a time with its date. */
export function dateTime(text) {
  return text ? TIME.format(new Date(text)) : "–";
}

/** Formats a time of day with milliseconds. */
export function clock(text) {
  return text ? CLOCK.format(new Date(text)) : "–";
}

/** Formats the distance of a time from now: "3 min ago", "in 2 h". */
export function relative(text, now = Date.now()) {
  if (!text) return "–";
  const distance = (new Date(text).getTime() - now) / 1000;
  if (Math.abs(distance) < 1) return "now";
  const rough = duration(Math.abs(distance)).split(" ").slice(0, 2).join(" ");
  return distance < 0 ? `${rough} ago` : `in ${rough}`;
}

/** Formats a size in bytes. */
export function bytes(value) {
  const size = Number(value ?? 0);
  if (size < 1024) return `${size} B`;
  if (size < 1024 ** 2) return `${(size / 1024).toFixed(1)} KiB`;
  return `${(size / 1024 ** 2).toFixed(1)} MiB`;
}

/** Returns the short name of an enum value: `state("JOB_STATE_QUEUED")` is "QUEUED". */
export const state = shortener("JOB_STATE_");
export const eventType = shortener("JOB_EVENT_TYPE_");
export const role = shortener("ROLE_");

function shortener(prefix) {
  return (name) => (name || "").replace(prefix, "");
}

/** The states of a job in the order of its life. */
export const STATES = [
  "SCHEDULED", "QUEUED", "RUNNING", "RETRYING", "SUCCEEDED", "FAILED", "CANCELLED",
];
