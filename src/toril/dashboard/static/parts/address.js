/** The address of an endpoint, without its scheme; it breaks after slashes only. */
import { html } from "../lib/html.js";

/** @param {{ url: string }} props */
export function Address({ url }) {
  return html`<bdi class="address">${url.replace(/^https?:\/\//, "").split(/(?<=\/)/).map((part, n) => html`<span key=${n}>${part}</span><wbr />`)}</bdi>`;
}
