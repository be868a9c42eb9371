/** JSON as a tree that folds. Everything in it is text, whatever it says. */
import { useState } from "preact/hooks";
import { ExactNumber } from "../lib/api.js";
import { html } from "../lib/html.js";

const SHOWN = 200;
const LONGEST = 2000;
const HIDDEN = "(hidden)";

/** @param {{ value: unknown, open?: number, box?: boolean, marked?: string }} props `open`: how many levels are unfolded */
export function Tree({ value, open = 2, box = true }) {
  const nested = isNested(value);
  return html`<div class="tree ${box ? "box" : ""}" tabindex=${box ? 0 : undefined}>
    ${nested ? html`<${Members} value=${value} open=${open} />` : html`<div><${Leaf} value=${value} /></div>`}
  </div>`;
}

/** @param {unknown} value */
function isNested(value) {
  return typeof value === "object" && value !== null && !(value instanceof ExactNumber) && Object.keys(value).length > 0;
}

/** @param {{ value: any, open: number }} props */
function Members({ value, open }) {
  const [shown, setShown] = useState(SHOWN);
  const keys = Object.keys(value);
  return html`${keys.slice(0, shown).map((key) => html`<${Member} key=${key} name=${key} value=${value[key]} open=${open} />`)}
    ${keys.length > shown &&
    html`<div><button class="quiet" onClick=${() => setShown(shown + 5 * SHOWN)}>Show more of ${keys.length - shown}</button></div>`}`;
}

/** @param {{ name: string, value: any, open: number }} props */
function Member({ name, value, open }) {
  const [unfolded, setUnfolded] = useState(open > 0);
  if (!isNested(value)) return html`<div>${name}: <${Leaf} value=${value} /></div>`;
  const size = Object.keys(value).length;
  return html`<details open=${unfolded} onToggle=${(/** @type {any} */ event) => setUnfolded(event.currentTarget.open)}>
    <summary>${name} <i>${Array.isArray(value) ? `list of ${size}` : size === 1 ? "1 key" : `${size} keys`}</i></summary>
    ${unfolded && html`<div><${Members} value=${value} open=${open - 1} /></div>`}
  </details>`;
}

/** @param {{ value: any }} props */
function Leaf({ value }) {
  const [whole, setWhole] = useState(false);
  if (value === HIDDEN) return html`<span class="hidden">hidden, needs payloads:read</span>`;
  if (value instanceof ExactNumber) return html`${value.source}`;
  const text = JSON.stringify(value);
  if (text.length <= LONGEST || whole) return html`<bdi>${text}</bdi>`;
  return html`<bdi>${text.slice(0, LONGEST)}</bdi>… <button class="quiet" onClick=${() => setWhole(true)}>Show all ${text.length} characters</button>`;
}
