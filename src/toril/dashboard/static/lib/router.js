/** Which page the address names. Everything a person can come back to stands in the address. */
import { signal } from "@preact/signals";

export const BASE = new URL(document.baseURI).pathname;

export const place = signal(read());

/** The parameters of where one is in a list. */
const PAGING = ["start", "after"];

/** @typedef {{ segments: string[], query: URLSearchParams, key: string }} Place */

/** @returns {Place} */
function read() {
  const raw = location.pathname.startsWith(BASE) ? location.pathname.slice(BASE.length) : "";
  const segments = raw.split("/").filter(Boolean).map((segment) => {
    try {
      return decodeURIComponent(segment);
    } catch {
      return segment;
    }
  });
  return { segments, query: new URLSearchParams(location.search), key: location.pathname };
}

/** The address of a page. @param {(string | number)[]} segments @param {Record<string, string | number | undefined>} [query] */
export function link(segments, query = {}) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined && value !== "") params.set(name, String(value));
  const text = params.toString();
  return BASE + segments.map((segment) => encodeURIComponent(String(segment))).join("/") + (text ? `?${text}` : "");
}

/** @param {string} to @param {{ replace?: boolean }} [how] */
export function go(to, how = {}) {
  if (how.replace) history.replaceState(null, "", to);
  else history.pushState(null, "", to);
  const before = place.value;
  place.value = read();
  const isSamePage = before.key === place.value.key;
  if (!isSamePage || PAGING.some((name) => before.query.get(name) !== place.value.query.get(name))) scrollTo(0, 0);
  if (!isSamePage) {
    document.querySelector("main")?.focus({ preventScroll: true });
  }
}

/** Change some parameters of this page's address. @param {Record<string, string | number | undefined>} changes @param {{ replace?: boolean }} [how] */
export function setQuery(changes, how = {}) {
  const params = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    if (value === undefined || value === "") params.delete(name);
    else params.set(name, String(value));
  }
  const text = params.toString();
  go(location.pathname + (text ? `?${text}` : ""), how);
}

addEventListener("popstate", () => {
  place.value = read();
});

addEventListener("click", (event) => {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const anchor = event.target instanceof Element ? event.target.closest("a[href]") : null;
  if (!(anchor instanceof HTMLAnchorElement) || anchor.target || anchor.hasAttribute("download")) return;
  if (anchor.origin !== location.origin || !anchor.pathname.startsWith(BASE) || anchor.hash) return;
  event.preventDefault();
  go(anchor.pathname + anchor.search);
});
