/** Registered workers, with their last attempts, and who is connected by socket and lease. */
import { useState } from "preact/hooks";
import { act, path } from "../lib/api.js";
import { useFetched, useFetchedAgain } from "../lib/fetching.js";
import { count, duration } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { go, link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { addJob } from "../parts/addjob.js";
import { Empty, Failed, Loading } from "../parts/blank.js";
import { Connected } from "../parts/connected.js";
import { FormDialog, ask, confirm } from "../parts/dialog.js";
import { Page } from "../parts/frame.js";
import { useRows } from "../parts/rows.js";
import { refusal, toast } from "../parts/toasts.js";
import { When } from "../parts/when.js";

/** @type {Record<string, string>} */
const COLOURS = { running: "good", paused: "warn", starting: "busy", elsewhere: "good", broken: "bad", invalid: "bad" };

export function WorkersPage() {
  const { data, error, slow, reload, url } = useFetched("workers");
  const [version, setVersion] = useState(0);
  const again = async () => {
    await reload();
    setVersion((n) => n + 1);
  };
  useLive(again, { everyMs: 4000 });
  const queues = Object.keys(data || {}).sort();
  const at = useRows({ count: Math.min(queues.length, 200), open: (n) => go(link(["queues", queues[n]])) });
  return html`<${Page} title="Workers" trail=${["Workers"]} curl=${url}>
    <div class="head"><div><div class="title"><h1>Workers</h1></div><p>HTTP endpoints that are called with each job of their queue.</p></div>
      <div class="acts">${may("workers:manage") && html`<button onClick=${() => register(again)}>Register worker</button>`}</div></div>
    ${data ? (queues.length ? html`<div class="wide" tabindex="0" role="region" aria-label="Workers"><table class="lines">
        <thead><tr><th>Queue</th><th>State</th><th class="c2">Endpoint</th><th class="n c3">Slots</th><th class="c3">Last attempts</th><th class="n">Median</th><th class="n">Last</th><th class="n only-wide"><span class="sr">Actions</span></th></tr></thead>
        <tbody>${queues.slice(0, 200).map((queue, n) => html`<${Row} key=${queue} row=${n} at=${at} queue=${queue} url=${data[queue]} version=${version} reload=${again} />`)}</tbody></table></div>
        ${queues.length > 200 && html`<div class="pages"><span>The first 200 of ${count(queues.length)}; the others stand on their queues.</span></div>`}`
      : html`<${Empty} title="No worker is registered"><p>Register an HTTP endpoint here, connect over a WebSocket, or lease jobs over HTTP. Workers of BullMQ itself stand on their queues.</p>${may("workers:manage") && html`<button class="primary" onClick=${() => register(again)}>Register worker</button>`}<//>`)
      : error ? html`<${Failed} error=${error} what="The workers" right="workers:read" retry=${reload} />` : slow && html`<${Loading} what="workers" />`}
    ${data && html`<${Connected} version=${version} />`}
  <//>`;
}

/** @param {{ row: number, at: number, queue: string, url: string, version: number, reload: () => Promise<void> }} props */
function Row({ row, at, queue, url, version, reload }) {
  const { data } = useFetchedAgain(`workers/${path(queue)}`, {}, version);
  const recent = data?.recent || [];
  const paused = data?.state === "paused";
  const times = recent.map((/** @type {any} */ one) => one.durationMs).sort((/** @type {number} */ a, /** @type {number} */ b) => a - b);
  const does = async (/** @type {string} */ method, /** @type {string} */ route, /** @type {string} */ said) => {
    try {
      await act(method, route);
      toast("good", said);
    } catch (error) {
      refusal(error);
    }
    await reload().catch(() => {});
  };
  return html`<tr data-row=${row} class=${row === at ? "shows-focus" : ""}>
    <th scope="row"><a class="thing" href=${link(["queues", queue])}><bdi>${queue}</bdi></a></th>
    <td class="ends">${data && html`<span class=${`st ${COLOURS[data.state] || "idle"}`}>${data.state}</span>${data.reason && html`<span class="sub"><bdi>${data.reason}</bdi></span>`}`}</td>
    <td class="c2 cut" title=${url}><bdi>${url.replace(/^https?:\/\//, "")}</bdi></td>
    <td class="n c3">${data ? count(data.opts?.concurrency || 1) : ""}</td>
    <td class="c3 kept">${recent.length > 0 && html`<button class="quiet dots" aria-label=${`Last attempts of ${queue}: ${recent.filter((/** @type {any} */ one) => one.outcome === "completed").length} of ${recent.length} completed`}
      onClick=${() => ask((close) => html`<${LastAttempts} queue=${queue} recent=${recent} close=${close} />`)}>${[...recent].reverse().map((/** @type {any} */ one, /** @type {number} */ n) => html`<i key=${n} class=${colour(one)} title=${`${one.jobId}: ${one.outcome}${one.status ? `, ${one.status}` : ""}, ${duration(one.durationMs)}`}></i>`)}</button>`}</td>
    <td class="n ends">${times.length ? duration(times[Math.floor(times.length / 2)]) : html`<span class="zero">none</span>`}</td>
    <td class="n gone"><${When} at=${recent[0]?.at} /></td>
    <td class="n whole"><div class="acts">
      ${may("jobs:add", queue) && html`<button aria-label=${`Send test job to ${queue}`} onClick=${() => addJob({ queue, name: "test", data: '{\n  "test": true\n}', title: "Send test job", note: `It is worked on like any other job of ${queue}.` })}>Send test job</button>`}
      ${may("workers:manage", queue) && html`<button aria-label=${`${paused ? "Resume" : "Pause"} the worker of ${queue}`} onClick=${() => does("POST", `workers/${path(queue)}/${paused ? "resume" : "pause"}`, `The worker of ${queue} ${paused ? "goes on" : "is paused"}`)}>${paused ? "Resume" : "Pause"}</button>
        <button class="danger" aria-label=${`Remove the worker of ${queue}`} onClick=${async () => {
          if (!(await confirm({ title: `Remove the worker of ${queue}?`, text: "Jobs in flight end; the rest wait for another worker.", danger: true, act: () => act("DELETE", `workers/${path(queue)}`) }))) return;
          toast("good", `${queue} has no worker now`);
          await reload().catch(() => {});
        }}>Remove</button>`}
    </div></td></tr>`;
}

/** @param {any} attempt */
function colour(attempt) {
  return attempt.outcome === "completed" ? "good" : attempt.outcome === "failed" ? "bad" : "warn";
}

/** @param {{ queue: string, recent: any[], close: (value: any) => void }} props newest first */
function LastAttempts({ queue, recent, close }) {
  return html`<div class="dialog large">
    <h2 id="dialog-title">Last attempts of ${queue}</h2>
    <div class="wide" tabindex="0" role="region" aria-label="Last attempts"><table><thead><tr><th>Job</th><th>Outcome</th><th class="n">Status</th><th class="n">Took</th><th class="n">Ended</th></tr></thead><tbody>
      ${recent.map((one, n) => html`<tr key=${n}><td><a href=${link(["queues", queue, "jobs", one.jobId])} onClick=${() => close(null)}><bdi>${one.jobId}</bdi></a></td><td><span class=${`st ${colour(one)}`}>${one.outcome}</span></td>
        <td class="n">${one.status ?? ""}</td><td class="n">${duration(one.durationMs)}</td><td class="n"><${When} at=${one.at} /></td></tr>`)}</tbody></table></div>
    <div class="acts"><button autofocus onClick=${() => close(null)}>Dismiss</button></div>
  </div>`;
}

/** @param {() => Promise<void>} reload */
async function register(reload) {
  if (await ask((close) => html`<${RegisterDialog} close=${close} />`)) await reload().catch(() => {});
}

/** @param {any} props */
function RegisterDialog({ close }) {
  const [form, setForm] = useState({ queue: "", url: "", method: "POST", timeout: "3", concurrency: "1" });
  const set = (/** @type {string} */ key) => (/** @type {any} */ event) => setForm({ ...form, [key]: event.currentTarget.value });
  const ready = !!form.queue.trim() && /^https?:\/\/./.test(form.url.trim()) && Number(form.timeout) > 0 && /^[1-9]\d*$/.test(form.concurrency.trim());
  const submit = async () => {
    await act("POST", "workers", {
      queue: form.queue.trim(), endpoint: { url: form.url.trim(), method: form.method, timeout: Math.round(Number(form.timeout) * 1000) }, opts: { concurrency: Number(form.concurrency) },
    });
    toast("good", `${form.queue} has a worker`);
    return true;
  };
  return html`<${FormDialog} title="Register worker" large ready=${ready} submit=${submit} close=${close}>
    <div class="fields">
      <label>Queue <input value=${form.queue} onInput=${set("queue")} autofocus autocomplete="off" /></label>
      <label>Concurrency <input value=${form.concurrency} inputmode="numeric" onInput=${set("concurrency")} /></label>
      <label>Method <select value=${form.method} onChange=${set("method")}>${["POST", "PUT", "GET"].map((one) => html`<option key=${one}>${one}</option>`)}</select></label>
      <label>Timeout, seconds <input value=${form.timeout} inputmode="decimal" onInput=${set("timeout")} /></label>
    </div>
    <label>URL <input type="url" placeholder="https://api.example.com/work" value=${form.url} onInput=${set("url")} autocomplete="off" /></label>
    <p class="muted">In place of the worker that the queue has now, if it has one.</p>
  <//>`;
}
