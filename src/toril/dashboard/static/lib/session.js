/** The token in use, what it may do, and the settings of this browser. */
import { signal } from "@preact/signals";

const KEY = "toril.token";
/** Also read by `theme.js`. */
const THEME = "toril.theme";
const TIMES = "toril.times";

/**
 * @typedef {object} Whoami
 * @property {string} name
 * @property {string[]} rights
 * @property {string[]} queues
 * @property {string | null} expires
 * @property {string} version
 * @property {string[]} doors
 */

/** @type {import("@preact/signals").Signal<string | null>} */
export const token = signal(readToken());
/** Whether toril gave no answer when it was asked who the token is. */
export const unanswered = signal(false);
/** @type {import("@preact/signals").Signal<Whoami | null>} */
export const who = signal(null);
/** Why the token was refused, while the login is shown. */
export const refused = signal("");
/** "relative" or "exact". */
export const times = signal(localStorage.getItem(TIMES) || "relative");

/** The token in `#token=` of the link that `toril dev` prints wins; it is taken out of the address. */
function readToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(KEY, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEY);
}

/** @param {string} value */
export function logIn(value) {
  sessionStorage.setItem(KEY, value);
  refused.value = "";
  token.value = value;
}

export function logOut() {
  sessionStorage.removeItem(KEY);
  who.value = null;
  refused.value = "";
  token.value = null;
}

/** The token is no longer good: ask for one again, over what is shown. @param {string} reason */
export function refuse(reason) {
  refused.value = reason;
}

/**
 * True if the token has a right, on this queue or target where one is named.
 * @param {string} right
 * @param {string} [queue]
 */
export function may(right, queue) {
  const caller = who.value;
  if (!caller || !caller.rights.includes(right)) return false;
  return queue === undefined || caller.queues.some((pattern) => matches(pattern, queue));
}

/** @param {string} door */
export function hasDoor(door) {
  return who.value !== null && who.value.doors.includes(door);
}

/** @param {string} pattern a glob @param {string} name */
function matches(pattern, name) {
  if (pattern === "*") return true;
  const source = pattern.replace(/[.+^${}()|\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
  return new RegExp(`^${source}$`, "s").test(name);
}

export function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem(THEME, root.dataset.theme);
}

export function switchTimes() {
  times.value = times.value === "exact" ? "relative" : "exact";
  localStorage.setItem(TIMES, times.value);
}
