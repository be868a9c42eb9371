/** The command palette: any page, queue, job or target by a few letters. */
import { useEffect, useRef, useState } from "preact/hooks";
import { get, path } from "../lib/api.js";
import { html } from "../lib/html.js";
import { KEYS } from "../lib/keyboard.js";
import { go, link } from "../lib/router.js";
import { hasDoor, may } from "../lib/session.js";
import { ask } from "./dialog.js";
import { menu } from "./frame.js";
import { Icon } from "./icons.js";

/** @typedef {{ icon: string, text: string, note?: string, to: string }} Entry */

let isOpen = false;

export async function openPalette() {
  if (isOpen) return;
  isOpen = true;
  const chosen = await ask((close) => html`<${Palette} close=${close} />`);
  isOpen = false;
  if (chosen) go(chosen);
}

export function showKeys() {
  ask((close) => html`<div class="dialog">
    <h2 id="dialog-title">Keyboard</h2>
    <dl class="kv">${KEYS.map(([keys, does]) => html`<dt key=${keys}>${keys.split(" ").map((key) => html`<kbd key=${key}>${key}</kbd> `)}</dt><dd>${does}</dd>`)}</dl>
    <div class="acts"><button autofocus onClick=${() => close(null)}>Dismiss</button></div>
  </div>`);
}

/** @param {string} text @returns {Promise<Entry[]>} */
async function find(text) {
  const wanted = text.trim().toLowerCase();
  /** @type {Entry[]} */
  const found = [];
  for (const [, items] of menu()) {
    for (const item of items) {
      if (!wanted || item.text.toLowerCase().includes(wanted)) found.push({ icon: item.icon, text: item.text, note: "page", to: link(item.to) });
    }
  }
  if (!wanted) return found;
  const escaped = (/** @type {string} */ name) => name.replace(/[*?[\]\\]/g, "\\$&");
  const glob = `*${escaped(wanted)}*`;
  const asked = [];
  if (may("queues:read")) {
    asked.push(get("queues", { match: glob, limit: 8 }).then((page) => page.queues.map((/** @type {any} */ queue) => ({
      icon: "queues", text: queue.name, note: "queue", to: link(["queues", queue.name]),
    }))));
  }
  if (may("targets:read") && hasDoor("delivery")) {
    asked.push(get("targets").then((page) => page.targets.filter((/** @type {any} */ target) => target.name.toLowerCase().includes(wanted)).slice(0, 8)
      .map((/** @type {any} */ target) => ({ icon: "targets", text: target.name, note: "target", to: link(["targets", target.name]) }))));
  }
  const [queue, id] = text.trim().split(/[\s/]+/);
  if (id && "groups".startsWith(id.toLowerCase()) && may("queues:read")) {
    asked.push(get("queues", { match: `*${escaped(queue)}*`, limit: 8 }).then((page) => page.queues.map((/** @type {any} */ one) => ({
      icon: "queues", text: `${one.name} groups`, note: "groups", to: link(["queues", one.name, "groups"]),
    }))));
  }
  if (queue && id && may("jobs:read", queue)) {
    asked.push(get(`queues/${path(queue)}/jobs/${path(id)}`, { state: "true" }).then((job) => [{
      icon: "queues", text: `${queue} ${id}`, note: `job, ${job.state || job.name}`, to: link(["queues", queue, "jobs", id]),
    }]));
  }
  for (const one of await Promise.allSettled(asked)) if (one.status === "fulfilled") found.push(...one.value);
  return found;
}

/** @param {{ close: (to: string | null) => void }} props */
function Palette({ close }) {
  const [text, setText] = useState("");
  const [entries, setEntries] = useState(/** @type {Entry[]} */ ([]));
  const [at, setAt] = useState(0);
  const newest = useRef(0);
  const foundFor = useRef(/** @type {string | null} */ (null));
  const entered = useRef(false);
  useEffect(() => {
    const mine = ++newest.current;
    const timer = setTimeout(async () => {
      const found = await find(text);
      if (mine !== newest.current) return;
      foundFor.current = text;
      setEntries(found);
      setAt(0);
      if (entered.current && found[0]) close(found[0].to);
      entered.current = false;
    }, text ? 120 : 0);
    return () => clearTimeout(timer);
  }, [text]);

  const pressed = (/** @type {KeyboardEvent} */ event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      setAt((before) => (entries.length ? (before + (event.key === "ArrowDown" ? 1 : -1) + entries.length) % entries.length : 0));
    } else if (event.key === "Enter" && foundFor.current !== text) {
      event.preventDefault();
      entered.current = true; // what was typed is still being looked for
    } else if (event.key === "Enter" && entries[at]) {
      event.preventDefault();
      if (event.metaKey || event.ctrlKey) open(entries[at].to, "_blank", "noopener");
      else close(entries[at].to);
    }
  };
  return html`<div class="dialog palette" onKeyDown=${pressed}>
    <h2 class="sr" id="dialog-title">Command palette</h2>
    <input aria-label="Search" role="combobox" aria-expanded="true" aria-controls="palette-list" aria-activedescendant=${entries[at] ? `palette-${at}` : undefined}
      placeholder="A page, a queue, a target, a queue and a job id, or a queue and groups" autocomplete="off" autofocus value=${text}
      onInput=${(/** @type {any} */ event) => setText(event.currentTarget.value)} />
    <h3>Go to</h3>
    <ul role="listbox" id="palette-list" aria-label="Go to">
      ${entries.map((entry, n) => html`<li role="option" id=${`palette-${n}`} key=${entry.to} aria-selected=${n === at} onClick=${() => close(entry.to)} onMouseMove=${() => setAt(n)}>
        <${Icon} name=${entry.icon} /><span><bdi>${entry.text}</bdi></span><span class="muted">${entry.note}</span></li>`)}
      ${!entries.length && html`<li class="muted">Nothing is called that</li>`}
    </ul>
    <footer><span>Enter opens</span><span>⌘ Enter in a new tab</span><span>Esc closes</span></footer>
  </div>`;
}
