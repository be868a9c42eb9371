/** The groups of a queue: what waits and runs of each, what holds it, and its limits. */
import { useState } from "preact/hooks";
import { act, path } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { count, duration, plural } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { link, place, setQuery } from "../lib/router.js";
import { hasDoor, may } from "../lib/session.js";
import { Empty, Failed, Loading } from "../parts/blank.js";
import { FormDialog, ask, confirm } from "../parts/dialog.js";
import { FIRST_PAGE, ForwardPages, pageOfAddress } from "../parts/forwardpages.js";
import { Page } from "../parts/frame.js";
import { useRows } from "../parts/rows.js";
import { State } from "../parts/state.js";
import { refusal, toast } from "../parts/toasts.js";
import { When } from "../parts/when.js";

const LENGTH = 50;
/** From so many jobs on, the id of the group is asked for. */
const MANY = 100_000;

/** @param {{ queue: string }} props */
export function GroupsPage({ queue }) {
  const match = place.value.query.get("match") || "";
  const { cursor, number } = pageOfAddress();
  const glob = match && !/[*?[]/.test(match) ? `*${match}*` : match;
  const { data, error, slow, reload, url } = useFetched(`queues/${path(queue)}/groups`, { match: glob, limit: LENGTH, cursor });
  useLive(reload, { queues: hasDoor("queues") && may("events:read", queue) ? [queue] : [], everyMs: 2000 });
  const manages = may("queues:manage", queue);
  const groups = data?.groups || [];
  const set = html`<button class=${groups.length ? "" : "primary"} onClick=${() => edit(queue, null, reload)}>Set limits</button>`;
  return html`<${Page} title=${`Groups of ${queue}`} trail=${[...above(queue), "Groups"]} curl=${url}>
    <div class="head"><div><div class="title"><h1>Groups of <bdi>${queue}</bdi></h1></div><p>They share the workers of the queue fairly. Each may have limits.</p></div>
      <div class="acts">${manages && groups.length > 0 && set}</div></div>
    <form class="query" role="search" onSubmit=${(/** @type {any} */ event) => {
      event.preventDefault();
      setQuery({ match: event.currentTarget.elements.match.value.trim(), ...FIRST_PAGE });
    }}><input name="match" aria-label="Search" placeholder="A part of an id, or acme/*" defaultValue=${match} key=${match} autocomplete="off" spellcheck="false" /><button type="submit">Search</button></form>
    ${data ? (groups.length ? html`<${List} queue=${queue} groups=${groups} manages=${manages} reload=${reload} />`
        : number > 1 ? html`<${Empty} title="There are no more groups"><button onClick=${() => setQuery(FIRST_PAGE)}>First page</button><//>`
        : match ? html`<${Empty} title=${`No group with jobs or limits is called ${match}`}><button onClick=${() => setQuery({ match: undefined, ...FIRST_PAGE })}>Clear search</button><//>`
        : html`<${Empty} title=${`No group of ${queue} has jobs or limits`}><p>A job belongs to a group, such as a tenant, when it is added with one:</p>
            <pre tabindex="0">{"name": "charge", "data": {}, "opts": {"group": {"id": "acme"}}}</pre>
            <p>Limits can be set before its first job.</p>${manages && set}<//>`)
      : error ? html`<${Failed} error=${error} what=${`groups of ${queue}`} right="queues:read" retry=${reload} />` : slow && html`<${Loading} what=${`groups of ${queue}`} />`}
    ${data && (number > 1 || data.next_cursor) && html`<${ForwardPages} next=${data.next_cursor} first="First">
      <span>${groups.length ? `${count(LENGTH * (number - 1) + 1)} to ${count(LENGTH * (number - 1) + groups.length)}, by id` : ""}</span><span class="grow"></span><//>`}
  <//>`;
}

/** True for the queue of a target, whose jobs are deliveries. @param {string} queue */
function isOfTarget(queue) {
  return queue.startsWith("deliver-");
}

/** The pages above that of a queue's groups: those of a target where there are none of queues. @param {string} queue */
function above(queue) {
  const target = queue.replace(/^deliver-/, "");
  return hasDoor("queues") ? [{ text: "Queues", to: link(["queues"]) }, { text: queue, to: link(["queues", queue]) }]
    : [{ text: "Targets", to: link(["targets"]) }, { text: target, to: link(["targets", target]) }];
}

/** What keeps the waiting jobs of a group from starting; empty if they may start. @param {any} group */
function holdOf(group) {
  if (group.paused) return "paused";
  if (!group.waiting) return "";
  if (group.effective.concurrency !== null && group.active >= group.effective.concurrency) return "concurrency";
  return group.held_until && Date.parse(group.held_until) > Date.now() ? "rate" : "";
}

/** @param {{ queue: string, groups: any[], manages: boolean, reload: () => Promise<void> }} props */
function List({ queue, groups, manages, reload }) {
  const at = useRows({ count: groups.length, open: (n) => manages && edit(queue, groups[n], reload) });
  return html`<div class="wide" tabindex="0" role="region" aria-label="Groups"><table class="lines">
    <thead><tr><th>Group</th><th>State</th><th class="n">Waiting</th><th class="n">Active</th><th class="n">Rate</th><th class="n">Weight</th>${manages && html`<th class="n"><span class="sr">Actions</span></th>`}</tr></thead>
    <tbody>${groups.map((group, n) => html`<${Row} key=${group.id} n=${n} at=${at} queue=${queue} group=${group} manages=${manages} reload=${reload} />`)}</tbody></table></div>`;
}

/** @param {{ n: number, at: number, queue: string, group: any, manages: boolean, reload: () => Promise<void> }} props */
function Row({ n, at, queue, group, manages, reload }) {
  const { id, limits, effective, waiting, active } = group;
  const hold = holdOf(group);
  const drains = !isOfTarget(queue) || may("deliveries:manage", queue);
  const byDefault = html`<span class="sub">the worker's</span>`;
  return html`<tr data-row=${n} class=${n === at ? "shows-focus" : ""}>
    <th scope="row"><bdi>${id}</bdi></th>
    <td class="ends">${hold ? html`<${State} word=${hold === "paused" ? "paused" : "held"} />` : html`<${State} word="running" as="good" />`}${hold === "concurrency" && html`<span class="sub">all slots in use</span>`}${hold === "rate" && html`<span class="sub">next start <${When} at=${group.held_until} /></span>`}</td>
    <td class=${`n ${waiting ? "" : "zero"}`} data-l="Waiting">${count(waiting)}${limits.max_waiting !== null && ` of ${count(limits.max_waiting)}`}</td>
    <td class=${`n ends ${active ? "" : "zero"}`} data-l="Active">${count(active)}${effective.concurrency !== null && html` of ${count(effective.concurrency)}${limits.concurrency === null && byDefault}`}</td>
    <td class="n" data-l="Rate">${effective.limit ? html`${count(effective.limit.max)} per ${duration(effective.limit.duration)}${!limits.limit && byDefault}` : html`<span class="zero">none</span>`}</td>
    <td class=${`n ends ${limits.weight === null ? "zero" : ""}`} data-l="Weight">${count(effective.weight)}</td>
    ${manages && html`<td class="n whole"><div class="acts">
      <button aria-label=${`${group.paused ? "Resume" : "Pause"} ${id}`} onClick=${() => pause(queue, group, reload)}>${group.paused ? "Resume" : "Pause"}</button>
      <button aria-label=${`Edit ${id}`} onClick=${() => edit(queue, group, reload)}>Edit</button>
      ${drains && html`<button class="danger" disabled=${!waiting} aria-label=${`Drain ${id}`} onClick=${() => drain(queue, group, reload)}>Drain</button>`}</div></td>`}
  </tr>`;
}

/** @param {string} queue @param {any} group @param {() => Promise<void>} reload */
async function pause(queue, group, reload) {
  try {
    await act("POST", `queues/${path(queue)}/groups/${path(group.id)}/${group.paused ? "resume" : "pause"}`);
    toast("good", `${group.id} ${group.paused ? "goes on" : "is paused"}`);
  } catch (error) {
    refusal(error);
  }
  await reload().catch(() => {});
}

/** @param {string} queue @param {any} group @param {() => Promise<void>} reload */
async function drain(queue, group, reload) {
  let removed = 0;
  const done = await confirm({
    title: `Drain ${group.id}?`, text: `${isOfTarget(queue) ? "Cancels the deliveries of" : "Removes"} ${plural(group.waiting, "waiting job")} of this group. Active ones go on. This cannot be undone.`, danger: true, type: group.waiting >= MANY ? group.id : undefined,
    act: async () => {
      removed = (await act("POST", `queues/${path(queue)}/groups/${path(group.id)}/drain`)).removed;
    },
  });
  if (done) toast("good", `${plural(removed, "job")} removed`);
  await reload().catch(() => {});
}

/** @param {string} queue @param {any} group null for one that is named in the dialog @param {() => Promise<void>} reload */
async function edit(queue, group, reload) {
  if (await ask((close) => html`<${LimitsDialog} queue=${queue} group=${group} close=${close} />`)) await reload().catch(() => {});
}

/** @param {{ queue: string, group: any, close: (what: any) => void }} props */
function LimitsDialog({ queue, group, close }) {
  const own = group?.limits;
  const [form, setForm] = useState({
    id: group?.id || "", concurrency: String(own?.concurrency ?? ""), max: String(own?.limit?.max ?? ""), seconds: String((own?.limit?.duration ?? 1000) / 1000),
    weight: String(own?.weight ?? ""), waiting: String(own?.max_waiting ?? ""),
  });
  const set = (/** @type {string} */ key) => (/** @type {any} */ event) => setForm({ ...form, [key]: event.currentTarget.value });
  const number = (/** @type {string} */ text) => (text.trim() ? Number(text) : undefined);
  const whole = [form.concurrency, form.max, form.weight, form.waiting];
  const ready = !!form.id && whole.every((text) => /^\s*([1-9]\d*)?\s*$/.test(text)) && (!form.max.trim() || Number(form.seconds) >= 0.001);
  const submit = async () => {
    const max = number(form.max);
    const body = {
      concurrency: number(form.concurrency), weight: number(form.weight), max_waiting: number(form.waiting),
      limit: max && { max, duration: Math.round(Number(form.seconds) * 1000) },
    };
    // DELETE would lift the pause too.
    if (group && !group.paused && Object.values(body).every((value) => value === undefined)) await act("DELETE", `queues/${path(queue)}/groups/${path(form.id)}`);
    else await act("PUT", `queues/${path(queue)}/groups/${path(form.id)}`, body);
    toast("good", `Limits of ${form.id} changed`);
    return true;
  };
  return html`<${FormDialog} title=${group ? `Limits of ${group.id}` : "Set limits"} ready=${ready} submit=${submit} close=${close}>
    <p class="muted">They count at once, for all workers of the queue. Where concurrency or starts are empty, those of the queue's worker hold, if it has some.</p>
    <div class="fields">
      ${!group && html`<label>Group <input value=${form.id} onInput=${set("id")} autofocus autocomplete="off" spellcheck="false" /></label>`}
      <label>Concurrency <input value=${form.concurrency} inputmode="numeric" autofocus=${!!group} onInput=${set("concurrency")} /></label>
      <label>Starts <input value=${form.max} inputmode="numeric" onInput=${set("max")} /></label>
      <label>in so many seconds <input value=${form.seconds} inputmode="decimal" onInput=${set("seconds")} /></label>
      <label>Weight, 1 to 1,000 <input value=${form.weight} inputmode="numeric" onInput=${set("weight")} /></label>
      <label>Waiting at most <input value=${form.waiting} inputmode="numeric" onInput=${set("waiting")} /></label>
    </div>
  <//>`;
}
