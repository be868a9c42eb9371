/** A moment, relative or exact, as the person has chosen. */
import { signal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { ago, exact } from "../lib/format.js";
import { html } from "../lib/html.js";
import { times } from "../lib/session.js";

const now = signal(Date.now());
setInterval(() => {
  if (!document.hidden) now.value = Date.now();
}, 1000);

/** The time, once a second, for what is shown. */
export function useNow() {
  const [value, set] = useState(now.value);
  useEffect(() => now.subscribe(set), []);
  return value;
}

/** @param {{ at: number | string | null | undefined, since?: boolean, due?: boolean }} props milliseconds or RFC 3339; `since`: "for 14 min"; `due`: "due for 14 min" once it is past */
export function When({ at, since, due }) {
  const current = useNow();
  const [mode, setMode] = useState(times.value);
  useEffect(() => times.subscribe(setMode), []);
  if (at === null || at === undefined || at === 0) return html`<span class="muted">none</span>`;
  const ms = typeof at === "number" ? at : Date.parse(at);
  const full = exact(ms);
  const text = mode === "exact" ? full.slice(0, 19) : ago(ms, current);
  const iso = Number.isNaN(ms) ? undefined : new Date(ms).toISOString();
  return html`<time datetime=${iso} title=${full}>${mode === "exact" ? text : since ? `for ${text}` : due && ms < current ? `due for ${text}` : text}</time>`;
}
