/** The targets of deliveries: those in trouble first. */
import { useState } from "preact/hooks";
import { act, path } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { count, duration, percent, plural } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { go, link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Address } from "../parts/address.js";
import { Empty, Failed, Loading } from "../parts/blank.js";
import { Page } from "../parts/frame.js";
import { useRows } from "../parts/rows.js";
import { State } from "../parts/state.js";
import { refusal, toast } from "../parts/toasts.js";
import { When } from "../parts/when.js";
import { sendEnvelope } from "../parts/envelope.js";

const SHOWN = 50;

/** True while a target has asked for nothing more (Retry-After). @param {any} target */
function isHeld(target) {
  return !!target.held_until && Date.parse(target.held_until) > Date.now();
}

/** Paused by a person, or held: it can be resumed. @param {any} target */
export function rests(target) {
  return target.paused || isHeld(target);
}

/** The word for how a target fares. @param {any} target */
export function stateOf(target) {
  if (target.paused) return "paused";
  if (target.breaker.state === "open") return "open";
  if (isHeld(target)) return "held";
  if (target.breaker.state === "half_open") return "half-open";
  return target.breaker.state;
}

/** @type {Record<string, number>} */
const WORST = { open: 0, "half-open": 1, held: 2, paused: 3 };

/** @param {any} target */
function trouble(target) {
  return WORST[stateOf(target)] ?? (target.dead_letters ? 4 : target.depth.retrying ? 5 : 6);
}

export function TargetsPage() {
  const { data, error, slow, reload, url } = useFetched("targets");
  useLive(reload, { everyMs: 3000 });
  const targets = [...(data?.targets || [])].sort((a, b) => trouble(a) - trouble(b) || a.name.localeCompare(b.name));
  const states = targets.map(stateOf);
  const said = [
    [states.filter((one) => one === "open").length, "breaker is open", "breakers are open"],
    [states.filter((one) => one === "held").length, "target is held", "targets are held"],
    [states.filter((one) => one === "paused").length, "target is paused", "targets are paused"],
  ].filter(([number]) => number).map(([number, one, many]) => plural(/** @type {number} */ (number), String(one), String(many)));
  return html`<${Page} title="Targets" trail=${["Targets"]} curl=${url}>
    <div class="head"><div><div class="title"><h1>Targets</h1></div>${data && html`<p>${plural(targets.length, "target")}. ${said.length ? `${said.join(", ")}.` : "All of them take deliveries."}</p>`}</div>
      <div class="acts">${may("deliveries:add") && html`<button onClick=${() => sendEnvelope(targets.map((one) => one.name))}>Send test envelope</button>`}</div></div>
    ${data?.pending_rollout?.length > 0 && html`<p class="note"><span class="st warn">Pending rollout</span> <span>${data.pending_rollout.map(String).join(", ")} apply when the instance restarts.</span></p>`}
    ${data ? (targets.length ? html`<${List} targets=${targets} reload=${reload} />` : html`<${Empty} title="No target is configured"><p>Targets stand in the configuration file, below <code>targets:</code>.</p><//>`)
      : error ? html`<${Failed} error=${error} what="The targets" right="targets:read" retry=${reload} />` : slow && html`<${Loading} what="targets" />`}
  <//>`;
}

/** @param {{ targets: any[], reload: () => Promise<void> }} props */
function List({ targets, reload }) {
  const [all, setAll] = useState(false);
  const shown = all ? targets : targets.slice(0, SHOWN);
  const at = useRows({ count: shown.length, open: (n) => go(link(["targets", shown[n].name])) });
  return html`<div class="wide" tabindex="0" role="region" aria-label="Targets"><table>
    <thead><tr><th>Target</th><th>State</th><th class="n">Queued</th><th class="n c3">Retrying</th><th class="n c2">In flight</th><th class="n c3">Oldest</th><th class="n">Failing</th><th class="n c3">Dead</th><th class="n only-wide"><span class="sr">Actions</span></th></tr></thead>
    <tbody>${shown.map((target, n) => html`<tr key=${target.name} data-row=${n} class=${n === at ? "shows-focus" : ""}>
      <th scope="row"><a class="thing" href=${link(["targets", target.name])}><bdi>${target.name}</bdi></a><span class="sub"><${Address} url=${target.config.url} /></span></th>
      <td><${TargetState} target=${target} /></td>
      <td class=${`n ${target.depth.queued ? "" : "zero"}`}>${count(target.depth.queued)}</td><td class=${`n c3 ${target.depth.retrying ? "" : "zero"}`}>${count(target.depth.retrying)}</td>
      <td class="n c2">${count(target.depth.dispatching)} of ${count(target.config.concurrency)}</td>
      <td class="n c3">${target.oldest_age_s === null ? html`<span class="zero">none</span>` : duration(target.oldest_age_s * 1000)}</td>
      <td class="n"><${Failing} recent=${target.recent} /></td>
      <td class=${`n c3 ${target.dead_letters ? "" : "zero"}`}>${target.dead_letters ? html`<a href=${link(["dead-letters"], { target: target.name })}>${count(target.dead_letters)}</a>` : "0"}</td>
      <td class="n only-wide">${may("targets:manage", target.name) && html`<button aria-label=${`${rests(target) ? "Resume" : "Pause"} ${target.name}`} onClick=${() => pauseTarget(target, reload)}>${rests(target) ? "Resume" : "Pause"}</button>`}</td></tr>`)}</tbody>
  </table></div>
  ${targets.length > SHOWN && html`<div class="pages"><span>${count(shown.length)} of ${count(targets.length)}, those in trouble first</span>${!all && html`<button class="quiet" onClick=${() => setAll(true)}>Show all</button>`}</div>`}`;
}

/** @param {{ target: any }} props */
export function TargetState({ target }) {
  const word = stateOf(target);
  return html`<${State} word=${word} />${word === "open" && target.breaker.opened_at ? html`<span class="sub"><${When} at=${target.breaker.opened_at} since /></span>` : ""}${word === "paused" && target.paused_since ? html`<span class="sub"><${When} at=${target.paused_since} since /></span>` : ""}${word === "held" ? html`<span class="sub"><${When} at=${target.held_until} /></span>` : ""}${word === "off" ? html`<span class="sub">no breaker</span>` : ""}`;
}

/** From this share on, failures stand out. */
const HOT = 0.05;

/** The share of a target's last attempts that failed. @param {{ recent: any }} props */
export function Failing({ recent }) {
  if (!recent || recent.failure_rate === null) return html`<span class="zero">none</span>`;
  return html`<span class=${recent.failure_rate >= HOT ? "hot" : recent.failure_rate ? "" : "zero"} title=${`${count(recent.failed)} of ${count(recent.attempts)} attempts in ${duration(recent.window_s * 1000)}`}>${percent(recent.failure_rate)}</span>`;
}

/** @param {any} target @param {() => Promise<unknown>} reload */
export async function pauseTarget(target, reload) {
  const resumes = rests(target);
  try {
    await act("POST", `targets/${path(target.name)}/${resumes ? "resume" : "pause"}`);
    toast("good", `${target.name} ${resumes ? "goes on" : "is paused"}`);
  } catch (error) {
    refusal(error);
  }
  await Promise.resolve(reload()).catch(() => {});
}
