/** What came of an action. Good news leaves by itself; all else stays until dismissed. */
import { signal } from "@preact/signals";
import { html } from "../lib/html.js";

const GOOD_MS = 6000;
const WORDS = { good: "Done", busy: "Working", warn: "In part", bad: "Refused" };

/** @typedef {{ id: number, kind: keyof typeof WORDS, text: string, done?: number, total?: number, link?: { to: string, text: string }, cancel?: () => void }} Toast */

/** @type {import("@preact/signals").Signal<Toast[]>} */
export const toasts = signal([]);
let last = 0;

/** @param {keyof typeof WORDS} kind @param {string} text @param {Partial<Toast>} [more] @returns {number} its id, to change it */
export function toast(kind, text, more = {}) {
  const id = more.id ?? ++last;
  const rest = toasts.value.filter((one) => one.id !== id);
  toasts.value = [...rest, { ...more, id, kind, text }].slice(-5);
  if (kind === "good") setTimeout(() => dismiss(id, "good"), GOOD_MS);
  return id;
}

/** @param {number} id @param {string} [only] only if it still is of this kind */
export function dismiss(id, only) {
  toasts.value = toasts.value.filter((one) => one.id !== id || (only !== undefined && one.kind !== only));
}

/** What an error says, with its status, code and request at the end. @param {unknown} error */
export function told(error) {
  const given = /** @type {any} */ (error);
  const where = given.request ? `, request ${given.request}` : "";
  return `${given.detail || given.message || error}${given.status ? ` (${given.status} ${given.code}${where})` : ""}`;
}

/** Say that something was refused. @param {unknown} error */
export function refusal(error) {
  toast("bad", told(error));
}

export function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite">
    ${toasts.value.map(
      (one) => html`<div class="toast" key=${one.id}>
        <p><span class="st ${one.kind}">${WORDS[one.kind]}</span> ${one.text}</p>
        ${one.total !== undefined && html`<progress value=${one.done || 0} max=${one.total} aria-label=${one.text}></progress>`}
        ${one.link && html`<a href=${one.link.to}>${one.link.text}</a>`}
        ${one.cancel && html`<button class="quiet" onClick=${one.cancel}>Cancel</button>`}
        ${one.kind !== "busy" && html`<button class="quiet" onClick=${() => dismiss(one.id)}>Dismiss</button>`}
      </div>`,
    )}
  </div>`;
}
