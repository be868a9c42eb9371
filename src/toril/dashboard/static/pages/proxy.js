/** Upstreams of the async proxy, and their requests by state. */
import { path } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { bytes, count, plural } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { go, link, place, setQuery } from "../lib/router.js";
import { Empty, Failed, Loading } from "../parts/blank.js";
import { Page } from "../parts/frame.js";
import { useRows } from "../parts/rows.js";
import { State } from "../parts/state.js";
import { When } from "../parts/when.js";

/** proxq's states, and BullMQ's behind them. @type {[string, string][]} */
const STATES = [["queued", "waiting,delayed,prioritized"], ["running", "active"], ["completed", "completed"], ["failed", "failed"]];
const LENGTH = 25;

export function ProxyPage() {
  const { query } = place.value;
  const { data, error, slow, reload } = useFetched("upstreams");
  const upstreams = data?.upstreams || [];
  const chosen = upstreams.find((/** @type {any} */ one) => one.queue === query.get("queue")) || upstreams[0];
  const state = STATES.find(([name]) => name === query.get("state")) || STATES[2];
  const start = Math.max(0, Number(query.get("start")) || 0);
  const page = useFetched(chosen ? `queues/${path(chosen.queue)}/jobs` : null, { statuses: state[1], start, length: LENGTH, order: "newest" });
  useLive(async () => {
    await reload();
    await page.reload().catch(() => {});
  }, { everyMs: 3000 });
  return html`<${Page} title="Requests" trail=${["Requests"]} curl=${page.url}>
    <div class="head"><div><div class="title"><h1>Requests</h1></div>${data && html`<p>${plural(upstreams.length, "upstream")}. Every request becomes a job; its answer is kept and given back.</p>`}</div></div>
    ${data ? (upstreams.length ? html`
        <div class="wide" tabindex="0" role="region" aria-label="Upstreams"><table class="choice"><thead><tr><th>Upstream</th><th class="c2">Backend</th><th>State</th><th class="n">Queued</th><th class="n">Running</th><th class="n c3">Completed</th><th class="n">Failed</th></tr></thead>
          <tbody>${upstreams.map((/** @type {any} */ one) => html`<tr key=${one.queue} aria-selected=${one === chosen}>
            <th scope="row"><a class="thing" href=${link(["proxy"], { queue: one.queue })} aria-current=${one === chosen ? "true" : undefined}><bdi>${one.prefix}</bdi></a></th><td class="c2"><bdi>${one.url}</bdi></td>
            <td>${one.paused ? html`<${State} word="paused" />` : html`<${State} word="running" as="good" />`}</td>
            <td class="n">${count(one.counts.queued)}</td><td class="n">${count(one.counts.running)}</td><td class="n c3">${count(one.counts.completed)}</td><td class="n">${count(one.counts.failed)}</td></tr>`)}</tbody></table></div>
        <section><nav class="tabs" aria-label="States">${STATES.map(([name]) => html`<a key=${name} href=${link(["proxy"], { queue: chosen.queue, state: name })} aria-current=${name === state[0] ? "true" : undefined}><b>${count(chosen.counts[name])}</b>${name}</a>`)}</nav>
          <${Requests} page=${page} state=${state[0]} start=${start} total=${chosen.counts[state[0]]} /></section>`
      : html`<${Empty} title="No upstream is configured"><p>Upstreams stand in the configuration file, below <code>upstreams:</code>.</p><//>`)
      : error ? html`<${Failed} error=${error} what="The upstreams" right="jobs:read" retry=${reload} />` : slow && html`<${Loading} what="upstreams" />`}
  <//>`;
}

/** @param {{ page: any, state: string, start: number, total: number }} props */
function Requests({ page, state, start, total }) {
  const jobs = page.data?.jobs || [];
  const at = useRows({ count: jobs.length, open: (n) => go(link(["proxy", jobs[n].id])) });
  if (!page.data) return page.error ? html`<${Failed} error=${page.error} what="The requests" right="jobs:read" retry=${page.reload} />` : page.slow ? html`<${Loading} what="requests" />` : null;
  if (!jobs.length) return html`<${Empty} title=${`No ${state} requests`} />`;
  return html`<table class="jobs bare"><thead><tr><th>Request</th><th>What</th><th class="n">Answer</th><th class="n c3">Size</th><th class="n">${state === "queued" || state === "running" ? "Accepted" : "Finished"}</th></tr></thead>
    <tbody>${jobs.map((/** @type {any} */ job, /** @type {number} */ n) => html`<tr key=${job.id} data-row=${n} class=${n === at ? "shows-focus" : ""}>
      <td><a class="thing" href=${link(["proxy", job.id])}>${job.id}</a></td><td class="cut"><bdi>${job.data?.method || ""} ${job.data?.target || job.name}</bdi></td>
      <td class="n">${job.returnvalue?.status ? html`<span class=${`st ${job.returnvalue.status < 400 ? "good" : "warn"}`}>${job.returnvalue.status}</span>` : job.failedReason ? html`<span class="st bad" title=${job.failedReason}>failed</span>` : ""}</td>
      <td class="n c3">${job.returnvalue?.bytes !== undefined ? bytes(job.returnvalue.bytes) : ""}</td><td class="n"><${When} at=${job.finishedOn || job.timestamp} /></td></tr>`)}</tbody></table>
    <div class="pages"><span>${count(start + 1)} to ${count(start + jobs.length)} of ${count(total)}</span><span class="grow"></span>
      <button disabled=${start === 0} onClick=${() => setQuery({ start: Math.max(0, start - LENGTH) || undefined })}>Previous</button>
      <button disabled=${start + jobs.length >= total} onClick=${() => setQuery({ start: start + LENGTH })}>Next</button></div>`;
}
