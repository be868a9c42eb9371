/** Schedulers of all queues or of one: when they make the next jobs, and changing them. */
import { useEffect, useState } from "preact/hooks";
import { act, get, parse, path } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { count, duration } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { go, link, place, setQuery } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Empty, Failed, Loading } from "../parts/blank.js";
import { FormDialog, ask, confirm } from "../parts/dialog.js";
import { Page } from "../parts/frame.js";
import { JsonEditor, fault } from "../parts/jsoneditor.js";
import { useRows } from "../parts/rows.js";
import { toast } from "../parts/toasts.js";
import { When } from "../parts/when.js";

const LENGTH = 50;

export function SchedulersPage() {
  const queue = place.value.query.get("queue") || "";
  const start = Math.max(0, Number(place.value.query.get("start")) || 0);
  const { data, error, slow, reload, url } = useFetched("schedulers", { queue: queue || undefined, start, length: LENGTH });
  useLive(reload, { everyMs: 5000 });
  const rows = data?.schedulers || [];
  const at = useRows({ count: rows.length, open: (n) => (may("schedulers:manage", rows[n].queue) ? editScheduler(rows[n].queue, rows[n], reload) : showNext(rows[n])) });
  return html`<${Page} title="Schedulers" trail=${["Schedulers"]} curl=${url}>
    <div class="head"><div><div class="title"><h1>Schedulers</h1></div><p>${queue ? `Those of ${queue}.` : "The next to make a job first."}</p></div>
      <div class="acts">${may("schedulers:manage") && html`<button onClick=${() => editScheduler(queue, null, reload)}>Add scheduler</button>`}</div></div>
    <form class="query" role="search" onSubmit=${(/** @type {any} */ event) => {
      event.preventDefault();
      setQuery({ queue: event.currentTarget.elements.queue.value.trim(), start: undefined });
    }}><input name="queue" aria-label="Search" placeholder="The name of a queue" defaultValue=${queue} key=${queue} autocomplete="off" /><button type="submit">Search</button></form>
    ${data ? (data.schedulers.length ? html`<div class="wide" tabindex="0" role="region" aria-label="Schedulers"><table class="lines">
        <thead><tr><th>Scheduler</th><th>Queue</th><th>When</th><th class="c2">Makes</th><th class="n c3">Made</th><th class="n">Next</th><th class="n only-wide"><span class="sr">Actions</span></th></tr></thead>
        <tbody>${rows.map((/** @type {any} */ one, /** @type {number} */ n) => html`<tr key=${`${one.queue} ${one.id}`} data-row=${n} class=${n === at ? "shows-focus" : ""}>
          <th scope="row"><bdi>${one.id}</bdi>${one.error && html`<span class="sub"><span class="st bad">broken</span> <bdi>${one.error}</bdi></span>`}</th>
          <td class="ends"><a href=${link(["queues", one.queue])}><bdi>${one.queue}</bdi></a></td>
          <td>${one.pattern ? html`<code>${one.pattern}</code> <span class="muted">${one.tz || "UTC"}</span>` : `every ${duration(one.every)}`}${one.endDate && html`<span class="sub">until <${When} at=${one.endDate} /></span>`}</td>
          <td class="c2"><bdi>${one.template?.name || ""}</bdi></td><td class="n c3">${count(one.iterationCount)}${one.limit ? ` of ${count(one.limit)}` : ""}</td>
          <td class="n ends"><a href=${link(["queues", one.queue, "jobs", `repeat:${one.id}:${one.next}`])}><${When} at=${one.next} /><span class="sr"> the next job of ${one.id}</span></a></td>
          <td class="n whole"><div class="acts">${may("schedulers:read", one.queue) && html`<button aria-label=${`Show the next times of ${one.id}`} onClick=${() => showNext(one)}>Next times</button>`}
            ${may("schedulers:manage", one.queue) && html`<button aria-label=${`Edit ${one.id}`} onClick=${() => editScheduler(one.queue, one, reload)}>Edit</button><button class="danger" aria-label=${`Remove ${one.id}`} onClick=${() => remove(one, reload)}>Remove</button>`}</div></td>
        </tr>`)}</tbody></table></div>
        ${data.count > LENGTH && html`<div class="pages"><span>${count(start + 1)} to ${count(start + rows.length)} of ${count(data.count)}</span><span class="grow"></span>
          <button disabled=${start === 0} onClick=${() => setQuery({ start: Math.max(0, start - LENGTH) || undefined })}>Previous</button>
          <button disabled=${start + rows.length >= data.count} onClick=${() => setQuery({ start: start + LENGTH })}>Next</button></div>`}`
        : start > 0 ? html`<${Empty} title="There are no more schedulers"><button onClick=${() => setQuery({ start: undefined })}>First page</button><//>`
        : html`<${Empty} title=${queue ? `${queue} has no schedulers` : "There are no schedulers yet"}><p>A scheduler adds a job to its queue every so often, or by a cron pattern.</p>${may("schedulers:manage") && html`<button class="primary" onClick=${() => editScheduler(queue, null, reload)}>Add scheduler</button>`}<//>`)
      : error ? html`<${Failed} error=${error} what="The schedulers" right="schedulers:read" retry=${reload} />` : slow && html`<${Loading} what="schedulers" />`}
  <//>`;
}

/** @param {any} one @param {() => Promise<void>} reload */
async function remove(one, reload) {
  if (!(await confirm({ title: `Remove ${one.id} of ${one.queue}?`, text: "It makes no more jobs, and the job that it has made for the next time goes with it. This cannot be undone.", danger: true, act: () => act("DELETE", `queues/${path(one.queue)}/schedulers/${path(one.id)}`) }))) return;
  toast("good", `${one.id} was removed`);
  await reload().catch(() => {});
}

/** @param {any} one */
function showNext(one) {
  ask((close) => html`<${NextTimes} one=${one} close=${close} />`);
}

/** The next five times, in the scheduler's zone and in the person's. @param {any} props */
function NextTimes({ one, close }) {
  const { data, error } = useFetched(`queues/${path(one.queue)}/schedulers/${path(one.id)}`, { next: 5 });
  const zone = one.tz || "UTC";
  const show = (/** @type {number} */ at, /** @type {string | undefined} */ timeZone) => new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium", timeZone }).format(at);
  const times = data?.nextTimes || (data?.next ? [data.next] : []);
  return html`<div class="dialog">
    <h2 id="dialog-title">${one.id}</h2>
    ${error ? html`<p>${error.detail}</p>` : html`<table><thead><tr><th>In ${zone}</th><th>Here</th></tr></thead><tbody>${times.map((/** @type {number} */ at) => html`<tr key=${at}><td>${show(at, zone)}</td><td>${show(at, undefined)}</td></tr>`)}</tbody></table>`}
    <div class="acts"><button autofocus onClick=${() => close(null)}>Dismiss</button></div>
  </div>`;
}

/** @param {string} queue @param {any} one null for a new one @param {() => Promise<void>} reload */
async function editScheduler(queue, one, reload) {
  const saved = await ask((close) => html`<${SchedulerDialog} queue=${queue} one=${one} close=${close} />`);
  if (saved) await reload().catch(() => {});
}

/** @param {any} props */
function SchedulerDialog({ queue, one, close }) {
  const [form, setForm] = useState({
    queue: queue || "", id: one?.id || "", pattern: one?.pattern || (one?.every ? "" : "0 * * * *"), every: one?.every ? String(one.every / 1000) : "", tz: one?.tz || "",
    name: one?.template?.name || "", data: JSON.stringify(one?.template?.data ?? {}, null, 2),
  });
  const [queues, setQueues] = useState(/** @type {string[]} */ ([]));
  useEffect(() => {
    get("queues", { limit: 100 }).then((page) => setQueues(page.queues.map((/** @type {any} */ each) => each.name)), () => {});
  }, []);
  const set = (/** @type {string} */ key) => (/** @type {any} */ event) => setForm({ ...form, [key]: event.currentTarget.value });
  const ready = !!form.queue.trim() && !!form.id.trim() && (form.pattern.trim() !== "") !== (form.every.trim() !== "") && !fault(form.data);
  const submit = async () => {
    const template = { ...(one?.template?.opts ? { opts: one.template.opts } : {}), name: form.name || form.id, data: parse(form.data) };
    const kept = Object.fromEntries(["limit", "startDate", "endDate"].filter((name) => one?.[name]).map((name) => [name, one[name]]));
    const body = { ...(form.pattern.trim() ? { pattern: form.pattern.trim(), ...(form.tz ? { tz: form.tz.trim() } : {}) } : { every: Math.round(Number(form.every) * 1000) }), ...kept, template };
    await act("PUT", `queues/${path(form.queue.trim())}/schedulers/${path(form.id.trim())}`, body);
    toast("good", `${form.id} is set`);
    return true;
  };
  return html`<${FormDialog} title=${one ? `Edit ${one.id}` : "Add scheduler"} large ready=${ready} submit=${submit} close=${close}>
    <div class="fields">
      ${!one && html`<label>Queue <input list="scheduler-queues" value=${form.queue} onInput=${set("queue")} autofocus autocomplete="off" /></label><datalist id="scheduler-queues">${queues.map((name) => html`<option key=${name} value=${name} />`)}</datalist>
        <label>Name of the scheduler <input value=${form.id} onInput=${set("id")} autocomplete="off" /></label>`}
      <label>Cron pattern <input class="mono" value=${form.pattern} onInput=${set("pattern")} autocomplete="off" /></label>
      <label>Time zone <input placeholder="UTC" value=${form.tz} onInput=${set("tz")} autocomplete="off" /></label>
      <label>Or every, seconds <input value=${form.every} inputmode="decimal" onInput=${set("every")} /></label>
      <label>Name of its jobs <input value=${form.name} onInput=${set("name")} autocomplete="off" /></label>
    </div>
    <${JsonEditor} value=${form.data} label="Data of its jobs, JSON" rows=${5} onChange=${(/** @type {string} */ text) => setForm({ ...form, data: text })} />
  <//>`;
}
