/** One delivery: its transitions and attempts, and the last answer. */
import { act, path } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { bytes, duration } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { go, link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Failed, Loading } from "../parts/blank.js";
import { Labels } from "../parts/deliveries.js";
import { Content, Headers, header } from "../parts/content.js";
import { confirm } from "../parts/dialog.js";
import { Page } from "../parts/frame.js";
import { State } from "../parts/state.js";
import { refusal, toast } from "../parts/toasts.js";
import { When } from "../parts/when.js";

/** @param {{ id: string }} props */
export function DeliveryPage({ id }) {
  const { data, error, slow, reload, url } = useFetched(`jobs/${path(id)}`);
  useLive(reload, { everyMs: 3000 });
  const trail = [{ text: "Targets", to: link(["targets"]) }, ...(data ? [{ text: data.target, to: link(["targets", data.target]) }] : []), id];
  return html`<${Page} title=${id} trail=${trail} curl=${url}>
    ${data ? html`<${Delivery} job=${data} reload=${reload} />` : html`<div class="head"><div><div class="title"><h1>${id}</h1></div></div></div>
      ${error ? html`<${Failed} error=${error} what=${`delivery ${id}`} right="deliveries:read" retry=${reload} />` : slow && html`<${Loading} what=${id} />`}`}
  <//>`;
}

/** @param {{ job: any, reload: () => Promise<void> }} props */
function Delivery({ job, reload }) {
  const over = ["delivered", "dead_lettered", "cancelled"].includes(job.status);
  const manages = may("deliveries:manage", job.target);
  const does = async (/** @type {string} */ method, /** @type {string} */ route, /** @type {any} */ body, /** @type {string} */ said) => {
    try {
      await act(method, route, body);
      toast("good", said);
    } catch (error) {
      refusal(error);
    }
    await reload().catch(() => {});
  };
  const attempts = [...job.attempts].reverse();
  return html`<div class="head"><div><div class="title"><h1>${job.job_id}</h1><${State} word=${job.status} /></div>
      <p>${job.last_error ? html`<bdi>${job.last_error}</bdi>` : html`to <a href=${link(["targets", job.target])}>${job.target}</a>`}</p></div>
      <div class="acts">
        ${manages && !over && html`<button class="danger" onClick=${async () => {
          if (await confirm({ title: `Cancel ${job.job_id}?`, text: "No further attempt is made. This cannot be undone.", danger: true, act: () => act("DELETE", `jobs/${path(job.job_id)}`) })) toast("good", "Cancelled");
          await reload().catch(() => {});
        }}>Cancel</button>`}
        ${manages && job.status === "dead_lettered" && html`<button class="danger" onClick=${async () => {
          const purged = await confirm({ title: `Purge ${job.job_id}?`, text: "The delivery and its history are gone for good. This cannot be undone.", danger: true, act: () => act("DELETE", `targets/${path(job.target)}/dead-letters/${path(job.job_id)}`) });
          if (!purged) return reload().catch(() => {});
          toast("good", "Purged");
          go(link(["dead-letters"], { target: job.target }));
        }}>Purge</button>
        <button class="primary" onClick=${() => does("POST", `targets/${path(job.target)}/dead-letters/replay`, { job_ids: [job.job_id] }, "It is tried again")}>Replay</button>`}
      </div></div>
    <div class="cols"><div>
      <section><header><h2>Attempts</h2><span class="muted">${job.attempts_made} of ${job.max_attempts} used</span></header>
        ${attempts.length ? html`<div class="wide" tabindex="0" role="region" aria-label="Attempts"><table><thead><tr><th class="n">No</th><th>Outcome</th><th>Error</th><th class="n">Took</th><th class="n">Started</th></tr></thead><tbody>
          ${attempts.map((one, n) => html`<tr key=${one.number}><td class="n">${one.number}</td>
            <td><span class=${`st ${!one.error ? "good" : n === 0 && job.status === "dead_lettered" ? "bad" : "warn"}`}>${one.status_code || one.outcome}</span></td>
            <td class="cut" title=${one.error || ""}><bdi>${one.error || ""}</bdi>${one.retry_after_s ? ` Asked to wait ${duration(one.retry_after_s * 1000)}` : ""}</td>
            <td class="n">${one.duration_ms === null ? "" : duration(one.duration_ms)}</td><td class="n"><${When} at=${one.started_at} /></td></tr>`)}</tbody></table></div>` : html`<p class="muted">None yet.</p>`}</section>
      <section><header><h2>Transitions</h2></header>
        <table><thead><tr><th class="n">No</th><th>From</th><th>To</th><th>Reason</th><th class="n c3">Attempt</th><th class="c2">By</th><th class="n">At</th></tr></thead><tbody>
          ${job.transitions.map((/** @type {any} */ one) => html`<tr key=${one.seq}><td class="n">${one.seq}</td><td>${one.from ? html`<${State} word=${one.from} />` : ""}</td><td><${State} word=${one.to} /></td>
            <td class="cut" title=${one.reason || ""}><bdi>${one.reason || ""}</bdi></td><td class="n c3">${one.attempt ?? ""}</td><td class="c2 muted">${one.by}</td><td class="n"><${When} at=${one.at} /></td></tr>`)}</tbody></table></section>
      <${Envelope} id=${job.job_id} />
      ${job.response && html`<section><header><h2>Last answer</h2><span class=${`st ${job.response.status < 300 ? "good" : "warn"}`}>${job.response.status}</span><span class="muted">${bytes(job.response.body_bytes)}${job.response.truncated ? ", cut off" : ""}</span></header>
        <${Headers} headers=${Object.entries(job.response.headers)} />
        <${Content} route=${`jobs/${path(job.job_id)}/response/body`} size=${job.response.body_bytes} type=${header(Object.entries(job.response.headers), "content-type")} name=${`${job.job_id}-response`} /></section>`}
    </div>
    <aside class="facts" aria-label="Facts"><section><dl class="kv">
      <dt>Target</dt><dd><a href=${link(["targets", job.target])}>${job.target}</a></dd>
      <dt>Accepted</dt><dd><${When} at=${job.created_at} /></dd><dt>Changed</dt><dd><${When} at=${job.updated_at} /></dd>
      ${job.next_attempt_at && html`<dt>Next attempt</dt><dd><${When} at=${job.next_attempt_at} due /></dd>`}
      ${job.deadline && html`<dt>Deadline</dt><dd><${When} at=${job.deadline} /></dd>`}
      ${job.reason && html`<dt>Reason</dt><dd>${job.reason}</dd>`}
      ${job.group && html`<dt>Group</dt><dd><a href=${link(["queues", `deliver-${job.target}`, "groups"])}><bdi>${job.group.id}</bdi></a>${job.group.priority ? `, priority ${job.group.priority}` : ""}</dd>`}
      <dt>Labels</dt><dd><${Labels} labels=${job.labels} /></dd></dl></section></aside></div>`;
}

/** What was, or will be, sent to the target. @param {{ id: string }} props */
function Envelope({ id }) {
  const { data, error } = useFetched(`jobs/${path(id)}/envelope`);
  if (!data) return error ? html`<section><header><h2>Envelope</h2></header><p class="muted">${error.detail}</p></section>` : null;
  const headers = Array.isArray(data.headers) ? data.headers : Object.entries(data.headers);
  return html`<section><header><h2>Envelope</h2><code><bdi>${data.method} ${data.path || "/"}</bdi></code>${data.body_bytes !== null && html`<span class="muted">${bytes(data.body_bytes)}</span>`}</header>
    <${Headers} headers=${headers} />
    <${Content} route=${`jobs/${path(id)}/envelope/body`} size=${data.body_bytes} type=${header(headers, "content-type")} name=${`${id}-envelope`} /></section>`;
}
