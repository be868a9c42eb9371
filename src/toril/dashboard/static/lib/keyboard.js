/** Keys that work everywhere, and how pages add theirs. */

/** @param {KeyboardEvent} event */
export function isTyping(event) {
  const target = event.target;
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName)) &&
    !(target instanceof HTMLInputElement && target.type === "checkbox");
}

/** What opens the palette on this machine. */
export const PALETTE_KEYS = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘K" : "Ctrl\u00a0K";

export const KEYS = [
  [PALETTE_KEYS, "command palette"],
  ["/", "search on this page"],
  ["G O", "overview"],
  ["G Q", "queues"],
  ["G W", "workers"],
  ["G S", "schedulers"],
  ["G R", "requests"],
  ["G T", "targets"],
  ["G D", "dead letters"],
  ["G E", "events"],
  ["J K", "next, previous row"],
  ["X", "select; with Shift a range"],
  ["Enter", "open"],
  ["?", "this list"],
];

/** @type {Record<string, string[]>} */
const PLACES = { o: [], q: ["queues"], w: ["workers"], s: ["schedulers"], r: ["proxy"], t: ["targets"], d: ["dead-letters"], e: ["events"] };

/**
 * @param {{ palette: () => void, help: () => void, go: (segments: string[]) => void }} does
 */
export function listen(does) {
  let chord = 0;
  addEventListener("keydown", (event) => {
    if ((event.metaKey || event.ctrlKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      does.palette();
      return;
    }
    if (isTyping(event) || event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
    const key = event.key.toLowerCase();
    if (Date.now() - chord < 1500 && PLACES[key]) {
      chord = 0;
      event.preventDefault();
      does.go(PLACES[key]);
    } else if (key === "g") chord = Date.now();
    else if (key === "?") does.help();
    else if (key === "/") {
      const field = document.querySelector('main input[aria-label="Search"]');
      if (field instanceof HTMLElement) {
        event.preventDefault();
        field.focus();
      }
    }
  });
}
