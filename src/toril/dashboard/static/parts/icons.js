/** The few pictures that stand beside words. */
import { html } from "../lib/html.js";

/** @type {Record<string, string>} */
const PATHS = {
  overview: "M2 9h3l2-5 3 8 2-4h2",
  queues: "M2 4h12M2 8h12M2 12h7",
  schedulers: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zM8 4.5V8l2.5 1.5",
  workers: "M3 3h10v4H3zM3 9h10v4H3zM5.5 5h1M5.5 11h1",
  requests: "M2 5h11l-3-3M14 11H3l3 3",
  targets: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zM8 6a2 2 0 1 0 0 4 2 2 0 0 0 0-4z",
  letters: "M2 5h12v8H2zM2 5l2-3h8l2 3M6 8.5h4",
  events: "M3 3v10M6.5 5H13M6.5 8H11M6.5 11H13",
  audit: "M4 2h6l3 3v9H4zM6.5 8h4M6.5 11h4",
  inspector: "M1.5 8S4 3.5 8 3.5 14.5 8 14.5 8 12 12.5 8 12.5 1.5 8 1.5 8zM8 6.2a1.8 1.8 0 1 0 0 3.6 1.8 1.8 0 0 0 0-3.6z",
  more: "M3 8h.01M8 8h.01M13 8h.01",
  search: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM10.5 10.5 14 14",
  theme: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zM8 2v12M10 3v10M12 4.2v7.6",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  resume: "M5 3l8 5-8 5z",
  copy: "M6 6h8v8H6zM10 6V2H2v8h4",
  logout: "M9 2H3v12h6M7 8h7M11.5 5.5 14 8l-2.5 2.5",
  clock: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zM8 5v3h2.5",
};

/** @param {{ name: string }} props */
export function Icon({ name }) {
  return html`<svg viewBox="0 0 16 16" aria-hidden="true"><path d=${PATHS[name]} stroke-width=${name === "more" ? 2.5 : 1.5} /></svg>`;
}

export function Brand() {
  return html`<svg viewBox="0 0 16 16" aria-hidden="true"><path d="M8 2.2a6 6 0 1 0 0 11.6M8 2.2v11.6M11.5 5v6M14 6.6v2.8" /></svg>`;
}
