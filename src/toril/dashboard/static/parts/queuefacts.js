/** What stands beside a queue's jobs: limits, workers, maintenance. */
import { useState } from "preact/hooks";
import { act, path } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { count, duration, plural } from "../lib/format.js";
import { html } from "../lib/html.js";
import { link, go } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Address } from "./address.js";
import { FormDialog, ask, confirm } from "./dialog.js";
import { toast } from "./toasts.js";
import { When } from "./when.js";

/** From so many jobs on, the name of the queue is asked for. */
const MANY = 100_000;

/** @param {{ queue: any, connected: any, stats: any, ready: boolean, changed: () => Promise<void> }} props `connected`: by socket and lease; `ready`: the stats have come, or will not */
export function QueueFacts({ queue, connected, stats, ready, changed }) {
  const name = queue.name;
  const manages = may("queues:manage", name);
  const limit = useFetched(`queues/${path(name)}/rate-limit`);
  const worker = stats?.worker;
  const schedulers = useFetched(may("schedulers:read", name) ? `queues/${path(name)}/schedulers` : null, { length: 1 });
  const rate = queue.rateLimit;
  const held = limit.data?.ttl || 0;
  const sockets = connected?.sockets || [];
  const leases = connected?.leases || [];
  const workers = queue.workers.length + (worker ? 1 : 0) + sockets.length + leases.length;
  const after = async () => {
    await Promise.allSettled([changed(), limit.reload()]);
  };
  const came = (/** @type {import("../lib/fetching.js").Fetched<any>} */ one) => one.url === undefined || one.data !== null || one.error !== null;
  // All at once: no button moves away under a pointer.
  if (!ready || !came(limit) || !came(schedulers)) return html`<aside class="facts" aria-label="Facts"></aside>`;
  return html`<aside class="facts" aria-label="Facts">
    <section><header><h2>Limits</h2>${manages && html`<button class="quiet" onClick=${() => editLimits(queue, after)}>Edit</button>`}</header>
      <dl class="kv">
        <dt>Concurrency</dt><dd>${queue.concurrency === null ? "no limit" : `${count(queue.counts.active)} of ${count(queue.concurrency)} in use`}</dd>
        <dt>Rate</dt><dd>${rate ? `${count(rate.max)} per ${duration(rate.duration)}` : "no limit"}</dd>
        <dt>Hold</dt><dd>${held > 0 ? html`<span class="st warn">held</span> for ${duration(held)}` : "none"}</dd>
        ${stats?.wait_ms && html`<dt>Wait p50, p99</dt><dd>${duration(stats.wait_ms.p50)}, ${duration(stats.wait_ms.p99)}</dd>`}
        ${stats?.attempt_ms && html`<dt>Attempt p50, p99</dt><dd>${duration(stats.attempt_ms.p50)}, ${duration(stats.attempt_ms.p99)}</dd>`}
      </dl></section>
    <section><header><h2>Workers</h2><a href=${link(["workers"])} aria-label=${`All workers, ${count(workers)} here`}>${count(workers)}</a></header>
      <dl class="kv">
        ${worker && html`<dt><span class=${`st ${worker.state === "paused" ? "warn" : "good"}`}>push</span></dt><dd><${Address} url=${worker.url} /><span class="sub">${plural(worker.concurrency || 1, "slot")}</span></dd>`}
        ${queue.workers.map((/** @type {any} */ one, /** @type {number} */ n) => html`<dt key=${n}><span class="st good">client</span></dt><dd>${one.name || one.rawname || one.addr}<span class="sub">${one.age !== undefined ? `connected ${duration(Number(one.age) * 1000)}` : ""}</span></dd>`)}
        ${sockets.map((/** @type {any} */ one, /** @type {number} */ n) => html`<dt key=${`s${n}`}><span class="st good">socket</span></dt><dd><bdi>${one.address || one.token}</bdi><span class="sub">${count(one.holding)} of ${plural(one.concurrency || 1, "slot")}, since <${When} at=${one.since} /></span></dd>`)}
        ${leases.map((/** @type {any} */ one, /** @type {number} */ n) => html`<dt key=${`l${n}`}><span class="st good">lease</span></dt><dd><bdi>${one.worker || "without a name"}</bdi><span class="sub">holds ${plural(one.holding, "job")}</span></dd>`)}
        ${!workers && html`<dt class="muted">none</dt><dd></dd>`}
      </dl></section>
    <section><header><h2>Groups</h2><a href=${link(["queues", name, "groups"])} aria-label=${`Show the groups of ${name}`}>Show</a></header></section>
    ${schedulers.data?.count > 0 && html`<section><header><h2>Schedulers</h2><a href=${link(["schedulers"], { queue: name })} aria-label=${`Schedulers of ${name}, ${count(schedulers.data.count)}`}>${count(schedulers.data.count)}</a></header></section>`}
    ${manages && html`<section><header><h2>Maintenance</h2></header>
      <div class="acts">
        <button onClick=${() => drain(queue, after)}>Drain</button>
        <button onClick=${() => clean(queue, after)}>Clean</button>
        <button class="danger" onClick=${() => obliterate(queue)}>Obliterate</button>
      </div></section>`}
  </aside>`;
}

/** @param {any} queue @param {() => Promise<void>} after */
async function drain(queue, after) {
  const waits = queue.counts.waiting + queue.counts.paused + queue.counts.prioritized;
  const done = await confirm({
    title: `Drain ${queue.name}?`, text: `Removes ${plural(waits, "waiting job")}. Delayed, active and finished ones stay. This cannot be undone.`, danger: true, type: waits >= MANY ? queue.name : undefined,
    act: () => act("POST", `queues/${path(queue.name)}/drain`, {}),
  });
  if (done) toast("good", `${plural(waits, "job")} removed`);
  await after();
}

/** @param {any} queue @param {() => Promise<void>} after */
async function clean(queue, after) {
  const answer = await ask((close) => html`<${CleanDialog} queue=${queue} close=${close} />`);
  if (answer) toast("good", `${plural(answer.removed ?? answer.ids?.length ?? 0, "job")} removed`);
  await after();
}

/** @param {any} queue */
async function obliterate(queue) {
  const counts = queue.counts;
  const text = `Removes the queue with ${count(counts.waiting + counts.paused)} waiting and ${count(counts.completed + counts.failed)} finished jobs, its limits and its schedulers. This cannot be undone.`;
  if (!(await confirm({ title: `Obliterate ${queue.name}?`, text, danger: true, type: queue.name, act: () => act("POST", `queues/${path(queue.name)}/obliterate`, { force: true }) }))) return;
  toast("good", `${queue.name} was obliterated`);
  go(link(["queues"]));
}

/** @param {any} queue @param {() => Promise<void>} after */
async function editLimits(queue, after) {
  if (await ask((close) => html`<${LimitsDialog} queue=${queue} close=${close} />`)) toast("good", "Limits changed");
  await after();
}

/** @param {{ queue: any, close: (what: any) => void }} props */
function CleanDialog({ queue, close }) {
  const [state, setState] = useState("completed");
  const [hours, setHours] = useState("24");
  const [limit, setLimit] = useState("1000");
  const ready = [hours, limit].every((text) => text.trim() !== "" && Number(text) >= 0);
  const submit = async () => (await act("POST", `queues/${path(queue.name)}/clean`, { state, grace: Math.round(Number(hours) * 3600_000), limit: Math.round(Number(limit)) })) || {};
  return html`<${FormDialog} title=${`Clean ${queue.name}`} danger ready=${ready} submit=${submit} close=${close}>
    <p>Removes jobs of one state that are older. This cannot be undone.</p>
    <div class="fields">
      <label>State <select value=${state} onChange=${(/** @type {any} */ event) => setState(event.currentTarget.value)}>${["completed", "failed", "delayed", "waiting", "prioritized"].map((one) => html`<option key=${one}>${one}</option>`)}</select></label>
      <label>Older than, hours <input value=${hours} inputmode="decimal" onInput=${(/** @type {any} */ event) => setHours(event.currentTarget.value)} /></label>
      <label>At most <input value=${limit} inputmode="numeric" onInput=${(/** @type {any} */ event) => setLimit(event.currentTarget.value)} /></label>
    </div>
  <//>`;
}

/** @param {{ queue: any, close: (what: any) => void }} props */
function LimitsDialog({ queue, close }) {
  const [form, setForm] = useState({ concurrency: String(queue.concurrency ?? ""), max: String(queue.rateLimit?.max ?? ""), duration: String((queue.rateLimit?.duration ?? 1000) / 1000), hold: "" });
  const set = (/** @type {string} */ key) => (/** @type {any} */ event) => setForm({ ...form, [key]: event.currentTarget.value });
  const good = (/** @type {string} */ text) => text.trim() === "" || (Number(text) > 0 && Number.isFinite(Number(text)));
  const ready = Object.values(form).every(good) && (!form.max || !!form.duration);
  const base = `queues/${path(queue.name)}`;
  const submit = async () => {
    const [concurrency, max] = [Math.round(Number(form.concurrency)), Math.round(Number(form.max))];
    if (concurrency) await act("PUT", `${base}/concurrency`, { concurrency });
    else if (queue.concurrency !== null) await act("DELETE", `${base}/concurrency`);
    if (max) await act("PUT", `${base}/rate-limit`, { max, duration: Math.round(Number(form.duration) * 1000) });
    else if (queue.rateLimit) await act("DELETE", `${base}/rate-limit`);
    if (Number(form.hold)) await act("PUT", `${base}/rate-limit/hold`, { ms: Math.round(Number(form.hold) * 1000) });
    return true;
  };
  return html`<${FormDialog} title=${`Limits of ${queue.name}`} ready=${ready} submit=${submit} close=${close}>
    <p class="muted">They count for all workers everywhere. An empty field is no limit.</p>
    <div class="fields">
      <label>Jobs at once <input value=${form.concurrency} inputmode="numeric" autofocus onInput=${set("concurrency")} /></label>
      <label>Starts <input value=${form.max} inputmode="numeric" onInput=${set("max")} /></label>
      <label>in so many seconds <input value=${form.duration} inputmode="decimal" onInput=${set("duration")} /></label>
      <label>Hold for, seconds <input value=${form.hold} inputmode="decimal" onInput=${set("hold")} /></label>
    </div>
  <//>`;
}
