/** The sidebar, the line on top and the page. */
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { html } from "../lib/html.js";
import * as live from "../lib/live.js";
import { link, place } from "../lib/router.js";
import { hasDoor, logOut, may, switchTheme, switchTimes, times, who } from "../lib/session.js";
import { exact } from "../lib/format.js";
import { PALETTE_KEYS } from "../lib/keyboard.js";
import { Brand, Icon } from "./icons.js";
import { INSPECTOR, asCurl } from "../lib/api.js";
import { copy } from "./copy.js";
import { openPalette } from "./palette.js";
import { useNow } from "./when.js";

/** @typedef {{ to: string[], icon: string, text: string, right?: string, door?: string, phone?: boolean }} Item */

/** @type {[string, Item[]][]} */
const MENU = [
  ["", [{ to: [], icon: "overview", text: "Overview", phone: true }]],
  ["Queues", [
    { to: ["queues"], icon: "queues", text: "Queues", right: "queues:read", door: "queues", phone: true },
    { to: ["schedulers"], icon: "schedulers", text: "Schedulers", right: "schedulers:read", door: "queues" },
    { to: ["workers"], icon: "workers", text: "Workers", right: "workers:read", door: "queues" },
  ]],
  ["Async proxy", [{ to: ["proxy"], icon: "requests", text: "Requests", right: "jobs:read", door: "proxy", phone: true }]],
  ["Deliveries", [
    { to: ["targets"], icon: "targets", text: "Targets", right: "targets:read", door: "delivery", phone: true },
    { to: ["dead-letters"], icon: "letters", text: "Dead letters", right: "deliveries:read", door: "delivery" },
  ]],
  ["Everywhere", [
    { to: ["events"], icon: "events", text: "Events", right: "events:read", door: "queues" },
    { to: ["audit"], icon: "audit", text: "Audit", right: "audit:read" },
    ...(INSPECTOR ? [{ to: ["inspector"], icon: "inspector", text: "Inspector", right: "payloads:read" }] : []),
  ]],
];

/** What the token may see of the menu. */
export function menu() {
  return MENU.map(([title, items]) => /** @type {[string, Item[]]} */ ([
    title,
    items.filter((item) => (!item.right || may(item.right)) && (!item.door || hasDoor(item.door))),
  ])).filter(([, items]) => items.length > 0);
}

/** @param {Item} item @param {string[]} segments */
function isHere(item, segments) {
  if (item.to.length === 0) return segments.length === 0;
  if (item.to[0] === "queues" && segments[0] === "flows") return true;
  if (item.to[0] === "targets" && segments[0] === "deliveries") return true;
  return segments[0] === item.to[0];
}

/** True on a page that a phone's bar has no room for. @param {string[]} segments */
function isBelowMore(segments) {
  return MENU.some(([, items]) => items.some((item) => !item.phone && isHere(item, segments)));
}

function Sidebar() {
  const { segments } = place.value;
  const caller = who.value;
  return html`<nav class="side" aria-label="Main">
    <a class="brand" href=${link([])}><${Brand} />toril</a>
    <button class="find" aria-label="Go to" onClick=${openPalette}><${Icon} name="search" /><span>Go to</span><kbd aria-hidden="true" data-keys=${PALETTE_KEYS}></kbd></button>
    ${menu().map(([title, items]) => html`
      ${title && html`<p key=${title}>${title}</p>`}
      <ul key=${title + "-list"}>
        ${items.map((item) => html`<li class=${item.phone ? "m" : ""} key=${item.text}>
          <a href=${link(item.to)} aria-current=${isHere(item, segments) ? "page" : undefined}><${Icon} name=${item.icon} />${item.text}</a>
        </li>`)}
        ${title === "Everywhere" && html`<li class="m phone"><a href=${link(["more"])} aria-current=${segments[0] === "more" ? "page" : isBelowMore(segments) ? "true" : undefined}><${Icon} name="more" />More</a></li>`}
      </ul>`)}
    <div class="foot">
      <${Caller} caller=${caller} />
      <div class="acts"><${FootButtons} /></div>
    </div>
  </nav>`;
}

/** @param {{ caller: import("../lib/session.js").Whoami | null }} props */
export function Caller({ caller }) {
  return html`<p>Token <b>${caller?.name}</b>${caller?.expires && html`<br />until ${exact(Date.parse(caller.expires)).slice(0, 16)}`}<br />toril ${caller?.version}</p>`;
}

export function FootButtons() {
  return html`<button class="quiet" onClick=${switchTheme} aria-label="Theme, dark or light"><${Icon} name="theme" /><span>Theme</span></button>
    <button class="quiet" onClick=${switchTimes} aria-label=${times.value === "exact" ? "Times, now exact" : "Times, now relative"}><${Icon} name="clock" /><span>Times</span></button>
    <button class="quiet" onClick=${logOut} aria-label="Log out"><${Icon} name="logout" /><span>Log out</span></button>`;
}

/** What is over the page: where one is, and whether it is live. @param {{ trail: (string | { text: string, to: string })[], curl?: string }} props */
function TopLine({ trail, curl }) {
  const paused = live.paused.value;
  const state = live.state.value;
  return html`<div class="top">
    <a class="phone brand" href=${link([])} aria-label="Overview"><${Brand} /></a>
    <ol>${trail.map((step, n) => html`<li key=${n}>${typeof step === "string" ? step : html`<a href=${step.to}>${step.text}</a>`}</li>`)}</ol>
    <span class="grow"></span>
    ${curl && html`<button class="quiet" aria-label="Copy as curl" onClick=${() => copy(asCurl("GET", curl))}><${Icon} name="copy" /><span>Copy as curl</span></button>`}
    ${state !== "idle" && html`<${LiveState} paused=${paused} state=${state} />
    ${paused
      ? html`<button class="quiet" onClick=${live.resume} aria-label="Resume live updates"><${Icon} name="resume" /><span>Resume live updates</span></button>`
      : html`<button class="quiet" onClick=${live.pause} aria-label="Pause live updates"><${Icon} name="pause" /><span>Pause live updates</span></button>`}`}
    <button class="quiet phone" aria-label="Go to" onClick=${openPalette}><${Icon} name="search" /></button>
  </div>`;
}

/** @param {{ paused: boolean, state: string }} props */
function LiveState({ paused, state }) {
  if (paused) return html`<span class="st idle">Paused</span>`;
  return state === "broken" ? html`<span class="st warn">Not live</span>` : html`<span class="st good">Live</span>`;
}

/** What is said when the figures are not those of now. */
function StaleNote() {
  const now = useNow();
  const state = live.state.value;
  if (live.paused.value) {
    if (!live.waiting.value) return null;
    return html`<p class="note"><span class="st idle">Live updates paused</span>
      <span>${live.waiting.value === 1 ? "1 change waits." : `${live.waiting.value} changes wait.`}</span>
      <button class="quiet" onClick=${() => { live.waiting.value = 0; live.paused.value = false; live.nudge.value += 1; setTimeout(live.pause, 1500); }}>Show them</button></p>`;
  }
  const read = live.freshAt.value;
  const age = Math.round((now - read) / 1000);
  if (state !== "broken" || age < 3) return null;
  const next = Math.max(0, Math.round((live.nextTryAt.value - now) / 1000));
  return html`<p class="note" role="status"><span class="st warn">Not live</span>
    <span>${read ? `Figures are ${age} s old, of ${exact(read).slice(11, 19)}.` : "Nothing could be read yet."} ${next ? `Trying again in ${next} s.` : "Trying again."}</span>
    <button class="quiet" onClick=${() => (live.nudge.value += 1)}>Try now</button></p>`;
}

/** @param {{ trail: (string | { text: string, to: string })[], title: string, curl?: string, children?: any }} props `curl`: the address of what the page shows */
export function Page({ trail, title, curl, children }) {
  const [, redraw] = useState(0);
  useEffect(() => {
    document.title = `${title} · toril`;
  }, [title]);
  const main = useRef(/** @type {HTMLElement | null} */ (null));
  // Set by hand: the whole page need not be drawn again for it.
  useLayoutEffect(() => live.reading.subscribe((number) => {
    if (number) main.current?.setAttribute("aria-busy", "true");
    else main.current?.removeAttribute("aria-busy");
  }), []);
  useEffect(() => {
    const stops = [live.paused, live.state, live.waiting].map((signal) => signal.subscribe(() => redraw((n) => n + 1)));
    return () => stops.forEach((stop) => stop());
  }, []);
  return html`<${Sidebar} />
    <main tabindex="-1" ref=${main}><${TopLine} trail=${trail} curl=${curl} /><${StaleNote} />${children}</main>`;
}
