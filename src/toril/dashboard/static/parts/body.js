/** A body: JSON laid out, text as it is, hexadecimal where it is binary. */
import { count } from "../lib/format.js";
import { html } from "../lib/html.js";
import { CopyButton } from "./copy.js";

/** @param {{ held: Uint8Array, size: number, type: string, more?: () => void, download?: () => void }} props `more` and `download`: where there is more than is held */
export function Body({ held, size, type, more, download }) {
  const text = asText(held, held.length >= size);
  const whole = held.length >= size;
  // Where no type is named, what looks like JSON may be it.
  const isJson = type ? type.includes("json") : /^\s*[{[]/.test(text || "");
  let kind = text === null ? "binary" : isJson && (type || whole) ? "JSON" : "text";
  let shown = text;
  if (kind === "JSON" && whole && text !== null) {
    try {
      shown = JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      if (!type) kind = "text";
    }
  }
  return html`<h3>Body <span class="muted">${kind}, ${whole ? `${count(size)} bytes` : `first ${count(held.length)} of ${count(size)} bytes`}</span></h3>
    <pre tabindex="0" class=${`box ${text === null ? "hex" : ""}`}><bdi>${text === null ? hex(held.subarray(0, 4096)) : shown}</bdi></pre>
    <div class="pages">${!whole && more && html`<button class="quiet" onClick=${more}>Next 64 KB</button>`}${download && html`<button class="quiet" onClick=${download}>Download</button>`}${text !== null && html`<${CopyButton} text=${() => text} />`}</div>`;
}

/** @param {Uint8Array} bytes @param {boolean} whole */
function asText(bytes, whole) {
  for (const byte of bytes) if (byte < 9 || (byte > 13 && byte < 32 && byte !== 27)) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: !whole });
  } catch {
    return null;
  }
}

/** @param {Uint8Array} bytes */
function hex(bytes) {
  const width = matchMedia("(max-width: 1400px)").matches ? 8 : 16;
  const lines = [];
  for (let at = 0; at < bytes.length; at += width) {
    const row = bytes.subarray(at, at + width);
    const pairs = Array.from(row, (byte) => byte.toString(16).padStart(2, "0")).join(" ").padEnd(width * 3 - 1);
    const letters = Array.from(row, (byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(4, "0")}  ${pairs}  ${letters}`);
  }
  return lines.join("\n");
}
