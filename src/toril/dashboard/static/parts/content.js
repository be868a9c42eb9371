/** The bytes of a body, read a piece at a time. */
import { useEffect, useState } from "preact/hooks";
import { address, send } from "../lib/api.js";
import { html } from "../lib/html.js";
import { may } from "../lib/session.js";
import { Body } from "./body.js";

const FIRST = 16_384;
const MORE = 65_536;

/** @param {{ route: string, size: number | null, type?: string, name: string }} props `size`: null where there is none; `name`: of the file that is downloaded */
export function Content({ route, size, type = "", name }) {
  const [held, setHeld] = useState(/** @type {Uint8Array} */ (new Uint8Array()));
  const [wrong, setWrong] = useState("");
  const more = async (/** @type {number} */ length) => {
    try {
      const answer = await send("GET", address(route, { offset: held.length, length }), { headers: { accept: "*/*" } });
      const piece = new Uint8Array(await answer.arrayBuffer());
      const all = new Uint8Array(held.length + piece.length);
      all.set(held);
      all.set(piece, held.length);
      setHeld(all);
    } catch (error) {
      setWrong(/** @type {any} */ (error).detail || String(error));
    }
  };
  useEffect(() => {
    if (size) more(FIRST);
  }, [route, size]);
  if (!size) return html`<h3>Body</h3><p class="muted">There is none.</p>`;
  if (wrong) return html`<h3>Body</h3><p class="muted">${wrong}</p>`;
  return html`<${Body} held=${held} size=${size} type=${type} more=${() => more(MORE)} download=${async () => {
    const answer = await send("GET", address(route), { headers: { accept: "*/*" } });
    const url = URL.createObjectURL(await answer.blob());
    const anchor = document.createElement("a");
    anchor.href = url;
    anchor.download = name;
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }} />`;
}

/** The value of a header; nothing where there is none. @param {[string, string][]} headers @param {string} wanted */
export function header(headers, wanted) {
  return headers.find(([name]) => name.toLowerCase() === wanted)?.[1] || "";
}

/** @param {{ headers: [string, string][] }} props */
export function Headers({ headers }) {
  return html`<h3>Headers <span class="muted">${headers.length}</span></h3>
    <dl class="kv headers">${headers.map(([name, value], n) => html`<dt key=${`n${n}`}><bdi>${name}</bdi></dt><dd key=${`v${n}`}>${value === "(hidden)" ? html`<span class="hidden">${may("payloads:read") ? "hidden" : "hidden, needs payloads:read"}</span>` : html`<bdi>${value}</bdi>`}</dd>`)}</dl>`;
}
