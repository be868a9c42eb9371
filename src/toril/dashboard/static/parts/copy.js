/** Copy text, and say so. */
import { html } from "../lib/html.js";
import { Icon } from "./icons.js";
import { toast } from "./toasts.js";

/** @param {string} text */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("good", "Copied");
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    toast(done ? "good" : "bad", done ? "Copied" : "The browser does not let this page copy");
  }
}

/** @param {{ text: () => string, label?: string, quiet?: boolean }} props */
export function CopyButton({ text, label = "Copy", quiet = true }) {
  return html`<button class=${quiet ? "quiet" : ""} onClick=${() => copy(text())}><${Icon} name="copy" />${label}</button>`;
}
