/** Numbers, sizes and times as people read them. */

const grouped = new Intl.NumberFormat("en-US");
const NBSP = "\u00a0";

/** @param {number | null | undefined} value */
export function count(value) {
  return value === null || value === undefined ? "none" : grouped.format(value);
}

/** `0.003`, `0.04`, `0.9`, `181`, `1,204`: digits that say something; only nothing is `0`. @param {number | null | undefined} value */
export function rate(value) {
  if (value === null || value === undefined) return "none";
  if (value === 0) return "0";
  if (value < 0.01) return String(Number(value.toPrecision(1)));
  return value < 10 ? value.toFixed(value < 0.1 ? 2 : 1) : grouped.format(Math.round(value));
}

/** `84 ms`, `5.8 s`, `6m 40s`, `3 h`, `3 days`. @param {number | null | undefined} ms */
export function duration(ms) {
  if (ms === null || ms === undefined) return "none";
  if (ms < 1000) return `${Math.round(ms)}${NBSP}ms`;
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(1).replace(/\.0$/, "")}${NBSP}s`;
  if (seconds < 60) return `${Math.round(seconds)}${NBSP}s`;
  const whole = Math.round(seconds);
  if (whole < 3600) {
    const rest = whole % 60;
    return rest ? `${Math.floor(whole / 60)}m${NBSP}${rest}s` : `${Math.floor(whole / 60)}${NBSP}min`;
  }
  if (whole < 48 * 3600) {
    const minutes = Math.floor((whole % 3600) / 60);
    return minutes && whole < 10 * 3600 ? `${Math.floor(whole / 3600)}h${NBSP}${minutes}m` : `${Math.floor(whole / 3600)}${NBSP}h`;
  }
  return `${Math.floor(whole / 86400)}${NBSP}days`;
}

/** How long ago, in one word and a unit: `9 s`, `3 min`, `2 h`, `12 days`; in the future: `in 9 s`. @param {number} at_ms @param {number} now_ms */
export function ago(at_ms, now_ms) {
  const between = Math.abs(now_ms - at_ms) / 1000;
  let text;
  if (between < 60) text = `${Math.floor(between)}${NBSP}s`;
  else if (between < 3600) text = `${Math.floor(between / 60)}${NBSP}min`;
  else if (between < 48 * 3600) text = `${Math.floor(between / 3600)}${NBSP}h`;
  else text = `${Math.floor(between / 86400)}${NBSP}days`;
  return at_ms > now_ms + 999 ? `in ${text}` : text;
}

/** `2026-11-29 08:30:15.204 UTC`. @param {number} at_ms */
export function exact(at_ms) {
  const when = new Date(at_ms);
  return Number.isNaN(when.getTime()) ? "unknown" : when.toISOString().replace("T", " ").replace("Z", " UTC");
}

/** `418 bytes`, `48.2 KB`. @param {number} size */
export function bytes(size) {
  if (size < 1024) return `${size}${NBSP}bytes`;
  if (size < 1024 * 1024) return `${(size / 1024).toFixed(1)}${NBSP}KB`;
  return `${(size / 1024 / 1024).toFixed(1)}${NBSP}MB`;
}

/** `12 %`, `0.4 %`. @param {number | null | undefined} share of one */
export function percent(share) {
  if (share === null || share === undefined) return "none";
  const value = share * 100;
  return `${value > 0 && value < 10 ? value.toFixed(1).replace(/\.0$/, "") : Math.round(value)}${NBSP}%`;
}

/** `1 job`, `3 jobs`. @param {number} number @param {string} one @param {string} [many] */
export function plural(number, one, many = `${one}s`) {
  return `${grouped.format(number)} ${number === 1 ? one : many}`;
}
