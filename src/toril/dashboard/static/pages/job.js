/** One job: every attempt, what it holds, and what can be done with it. */
import { useMemo, useState } from "preact/hooks";
import { act, address, get, path, send } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { bytes, count, duration, plural } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { go, link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { addJob } from "../parts/addjob.js";
import { Attempts } from "../parts/attempts.js";
import { Failed, Loading } from "../parts/blank.js";
import { CopyButton } from "../parts/copy.js";
import { FormDialog, ask, confirm } from "../parts/dialog.js";
import { Family, parentOf } from "../parts/family.js";
import { Page } from "../parts/frame.js";
import { JsonEditor, fault } from "../parts/jsoneditor.js";
import { State } from "../parts/state.js";
import { refusal, toast } from "../parts/toasts.js";
import { Tree } from "../parts/tree.js";
import { When } from "../parts/when.js";
import { DelayDialog } from "./queue.js";

/** @param {{ queue: string, id: string }} props */
export function JobPage({ queue, id }) {
  const base = `queues/${path(queue)}/jobs/${path(id)}`;
  const job = useFetched(base, { state: "true" });
  const attempts = useFetched(`${base}/attempts`);
  const logs = useFetched(`${base}/logs`, { start: 0, length: 100 });
  useLive(async () => {
    await job.reload();
    await Promise.allSettled([attempts.reload(), logs.reload()]);
  }, { queues: may("events:read", queue) ? [queue] : [], everyMs: 4000 });
  const data = job.data;
  const trail = [{ text: "Queues", to: link(["queues"]) }, { text: queue, to: link(["queues", queue]) }];
  if (data?.state) trail.push({ text: data.state, to: link(["queues", queue], { state: data.state === "paused" ? "waiting" : data.state }) });
  return html`<${Page} title=${`${id} · ${queue}`} trail=${[...trail, id]} curl=${job.url}>
    ${data ? html`<${Job} queue=${queue} id=${id} job=${data} attempts=${attempts.data?.attempts || []} logs=${logs.data} reload=${() => Promise.allSettled([job.reload(), attempts.reload(), logs.reload()])} gone=${job.error?.status === 404} />`
      : html`<div class="head"><div><div class="title"><h1><bdi>${id}</bdi></h1></div></div></div>
        ${job.error ? html`<${Failed} error=${job.error} what=${`job ${id} in ${queue}`} right="jobs:read" retry=${job.reload} />` : job.slow && html`<${Loading} what=${id} />`}`}
  <//>`;
}

/** @param {any} props */
function Job({ queue, id, job, attempts, logs, reload, gone }) {
  const base = `queues/${path(queue)}/jobs/${path(id)}`;
  const state = job.state || "unknown";
  const manages = may("jobs:manage", queue) && !gone;
  const doing = async (/** @type {string} */ method, /** @type {string} */ route, /** @type {string} */ said, /** @type {any} */ body = undefined) => {
    try {
      await act(method, route, body);
      toast("good", said);
    } catch (error) {
      refusal(error);
    }
    await reload();
  };
  const remove = async () => {
    const gone = await confirm({ title: `Remove ${id} of ${queue}?`, text: "The job and its children are gone for good. This cannot be undone.", danger: true, act: () => act("DELETE", base) });
    if (!gone) return reload();
    toast("good", `${id} was removed`);
    go(link(["queues", queue], { state }));
  };
  const reason = state === "completed" ? "" : job.failedReason || "";
  // Once for each reading, not each drawing: data can be megabytes.
  const size = useMemo(() => new TextEncoder().encode(JSON.stringify(job.data) ?? "").length, [job.data]);
  const again = async () => {
    const options = { ...job.opts };
    for (const own of ["jobId", "parent", "repeat", "timestamp", "prevMillis", "repeatJobKey", "deduplication", "debounce"]) delete options[own];
    await addJob({ queue, name: job.name, data: laidOut(job.data), options, title: "Edit and send again", note: gone ? `Adds a new job in place of ${id}, which was removed` : `Adds a new job; ${id} stays as it is`, from: gone ? undefined : id });
  };
  return html`
    <div class="head">
      <div><div class="title"><h1><bdi>${id}</bdi></h1><span class="muted"><bdi>${job.name}</bdi></span><${State} word=${gone ? "removed" : state} /></div>
        ${reason && html`<p class="reason"><bdi>${reason}</bdi></p>`}</div>
      <div class="acts">
        ${manages && state !== "active" && html`<button onClick=${() => edit(base, job, reload)}>Edit</button>`}
        ${manages && state === "delayed" && html`<button onClick=${async () => {
          const delay = await ask((close) => html`<${DelayDialog} close=${close} />`);
          if (delay !== null) doing("PUT", `${base}/delay`, `${id} runs in ${duration(delay)}`, { delay });
        }}>Move to delay</button>`}
        ${manages && state !== "active" && html`<button class="danger" onClick=${remove}>Remove</button>`}
        ${may("jobs:add", queue) && html`<button onClick=${again}>Edit and send again</button>`}
        ${manages && state === "delayed" && html`<button class="primary" onClick=${() => doing("POST", `${base}/promote`, `${id} waits no longer`)}>Promote</button>`}
        ${manages && (state === "failed" || state === "completed") && html`<button class=${state === "failed" ? "primary" : ""} onClick=${() => doing("POST", `${base}/retry`, `${id} waits again`)}>Retry</button>`}
      </div>
    </div>
    <div class="cols"><div>
      <${Attempts} attempts=${attempts} job=${job} state=${state} />
      ${job.progress !== 0 && job.progress !== null && typeof job.progress === "object" && html`<section><header><h2>Progress</h2></header><${Tree} value=${job.progress} /></section>`}
      <section><header><h2>Data</h2><span class="muted">${bytes(size)}</span><span class="grow"></span><${CopyButton} text=${() => laidOut(job.data)} /></header>
        <${Tree} value=${job.data} /></section>
      ${state === "completed" && html`<section><header><h2>Result</h2><span class="grow"></span><${CopyButton} text=${() => JSON.stringify(job.returnvalue, null, 2)} /></header><${Tree} value=${job.returnvalue} /></section>`}
      ${job.stacktrace?.length > 0 && html`<section><header><h2>Stack traces</h2><span class="muted">${count(job.stacktrace.length)}</span></header>
        ${[...job.stacktrace].reverse().map((/** @type {string} */ trace, /** @type {number} */ n) => html`<details key=${n} open=${n === 0}><summary class="muted">${n === 0 ? "The last one" : `${n} before the last`}</summary><pre tabindex="0" class="box"><bdi>${trace}</bdi></pre></details>`)}</section>`}
      <section><header><h2>Logs</h2><span class="muted">${plural(logs?.count || 0, "line")}</span><span class="grow"></span>${logs?.logs.length > 0 && html`<${CopyButton} text=${() => logs.logs.join("\n")} />`}</header>
        ${logs?.logs.length ? html`<ol class="log lines">${logs.logs.map((/** @type {string} */ line, /** @type {number} */ n) => html`<li key=${n}><bdi>${line}</bdi></li>`)}</ol>
          ${logs.count > logs.logs.length && html`<p class="muted">The first ${count(logs.logs.length)} of ${count(logs.count)} lines.</p>`}` : html`<p class="muted">Nothing was logged.</p>`}</section>
    </div>
    <aside class="facts" aria-label="Facts">
      <section><dl class="kv">
        <dt>Queue</dt><dd><a href=${link(["queues", queue])}><bdi>${queue}</bdi></a></dd>
        <dt>Priority</dt><dd>${count(job.priority)}</dd>
        <dt>Added</dt><dd><${When} at=${job.timestamp} /></dd>
        ${job.delay > 0 && html`<dt>Runs</dt><dd><${When} at=${job.timestamp + job.delay} /></dd>`}
        ${job.processedOn && html`<dt>Started</dt><dd><${When} at=${job.processedOn} /></dd>`}
        ${job.finishedOn && html`<dt>Finished</dt><dd><${When} at=${job.finishedOn} /></dd>`}
        <dt>Attempts</dt><dd>${job.attemptsMade} of ${Math.max(1, job.opts?.attempts || 1)}</dd>
        ${job.attemptsStarted > job.attemptsMade + (state === "active" ? 1 : 0) && html`<dt>Started</dt><dd>${plural(job.attemptsStarted, "time")}</dd>`}
        ${job.deferredFailure && html`<dt>Will fail</dt><dd><span class="st warn"><bdi>${job.deferredFailure}</bdi></span></dd>`}
        ${job.processedBy && html`<dt>Worker</dt><dd><bdi>${job.processedBy}</bdi></dd>`}
        ${job.stalledCounter > 0 && html`<dt>Stalled</dt><dd><span class="st warn">${plural(job.stalledCounter, "time")}</span></dd>`}
        <dt>Progress</dt><dd class="gauge">${typeof job.progress === "number" ? html`<progress value=${job.progress} max="100" aria-label="Progress"></progress><span>${job.progress}\u00a0%</span>` : typeof job.progress === "object" && job.progress !== null ? "below" : String(job.progress)}</dd>
        ${job.deduplicationId && html`<dt>Deduplication</dt><dd><bdi>${job.deduplicationId}</bdi></dd>`}
        ${job.repeatJobKey && html`<dt>Scheduler</dt><dd><a href=${link(["schedulers"], { queue })}><bdi>${job.repeatJobKey}</bdi></a></dd>`}
      </dl></section>
      <${Family} queue=${queue} id=${id} job=${job} parent=${parentOf(job)} />
      <section><header><h2>Options</h2><${CopyButton} text=${() => JSON.stringify(job.opts, null, 2)} /></header><${Tree} value=${job.opts} box=${false} open=${1} /></section>
    </aside></div>`;
}

/** @param {string} base @param {any} job @param {() => Promise<unknown>} reload */
async function edit(base, job, reload) {
  if (await ask((close) => html`<${EditDialog} base=${base} job=${job} close=${close} />`)) toast("good", "Changed");
  await reload();
}

/** What an edit would overwrite. @param {any} job */
const editable = (job) => JSON.stringify([job.data, job.priority]);

/** @param {any} props */
function EditDialog({ base, job, close }) {
  const [seen, setSeen] = useState(job);
  const [data, setData] = useState(() => laidOut(job.data));
  const [priority, setPriority] = useState(String(job.priority));
  const [delay, setDelay] = useState("");
  const ready = !fault(data) && /^\d+$/.test(priority.trim()) && (delay.trim() === "" || Number(delay) >= 0);
  const submit = async () => {
    const now = await get(base, { state: "true" });
    if (editable(now) !== editable(seen)) {
      setSeen(now);
      throw new Error("It was changed meanwhile. Confirm once more to write yours over it");
    }
    if (data !== laidOut(now.data)) await send("PUT", address(`${base}/data`), { text: data });
    if (Number(priority) !== now.priority) await act("PUT", `${base}/priority`, { priority: Number(priority) });
    if (delay.trim()) await act("PUT", `${base}/delay`, { delay: Math.round(Number(delay) * 1000) });
    return true;
  };
  return html`<${FormDialog} title=${`Edit ${job.id}`} large ready=${ready} submit=${submit} close=${close}>
    <${JsonEditor} value=${data} label="Data, JSON" rows=${10} onChange=${setData} />
    <div class="fields"><label>Priority <input value=${priority} inputmode="numeric" onInput=${(/** @type {any} */ event) => setPriority(event.currentTarget.value)} /></label>
      ${job.state === "delayed" && html`<label>Delay, seconds from now <input value=${delay} inputmode="decimal" placeholder="as it is" onInput=${(/** @type {any} */ event) => setDelay(event.currentTarget.value)} /></label>`}</div>
    ${seen !== job && html`<section aria-label="As it is now"><h3>As it is now <span class="muted">priority ${seen.priority}</span></h3><${Tree} value=${seen.data} /></section>`}
  <//>`;
}

/** JSON as a person edits it. @param {unknown} value */
function laidOut(value) {
  return JSON.stringify(value, null, 2) ?? "null";
}
