/** A state: a shape, a colour and a word. */
import { html } from "../lib/html.js";
import { kind } from "../lib/states.js";

/** @param {{ word: string, as?: string }} props `as`: another colour than the state's own */
export function State({ word, as }) {
  return html`<span class="st ${as || kind(word)}">${word}</span>`;
}
