/** A field for JSON that says what is wrong, and where. */
import { useRef } from "preact/hooks";
import { html } from "../lib/html.js";

/**
 * What is wrong with a text that is to be JSON; null if nothing is.
 * @param {string} text
 * @returns {{ line: number, column: number, message: string } | null}
 */
export function fault(text) {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const found = /at position (\d+)/.exec(message);
    const at = found ? Number(found[1]) : text.length;
    const before = text.slice(0, at).split("\n");
    const plain = message.replace(/ in JSON at position .*$/, "").replace(/, ".*$/s, "").replace(/ \(line.*$/, "");
    return { line: before.length, column: before[before.length - 1].length + 1, message: text.trim() ? plain : "nothing is written here" };
  }
}

/** @param {{ value: string, onChange: (text: string) => void, label: string, rows?: number }} props */
export function JsonEditor({ value, onChange, label, rows = 10 }) {
  const numbers = useRef(/** @type {HTMLElement | null} */ (null));
  const wrong = fault(value);
  const lines = value.split("\n").length;
  const id = `json-${label.replace(/\W+/g, "-").toLowerCase()}`;
  return html`<div class="json">
    <div class="edit">
      <i ref=${numbers} aria-hidden="true">${Array.from({ length: Math.max(lines, 1) }, (_, n) => html`<span class=${wrong?.line === n + 1 ? "wrong" : ""} key=${n}>${n + 1}</span>`)}</i>
      <textarea aria-label=${label} aria-invalid=${wrong !== null} aria-describedby=${id} spellcheck="false" autocomplete="off" wrap="off"
        rows=${Math.min(Math.max(lines, rows), 30)} value=${value}
        onInput=${(/** @type {any} */ event) => onChange(event.currentTarget.value)}
        onScroll=${(/** @type {any} */ event) => numbers.current && (numbers.current.scrollTop = event.currentTarget.scrollTop)}></textarea>
    </div>
    <p id=${id} aria-live="polite">${wrong && html`<span class="st bad">Line ${wrong.line}, column ${wrong.column}</span> <span>${wrong.message}</span>`}</p>
  </div>`;
}
