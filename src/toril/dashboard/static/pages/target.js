/** One target: its breaker, its policy, its newest deliveries and its dead letters. */
import { path } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { count, duration, plural } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { link, place } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Failed, Loading } from "../parts/blank.js";
import { Deliveries } from "../parts/deliveries.js";
import { sendEnvelope } from "../parts/envelope.js";
import { pageOfAddress } from "../parts/forwardpages.js";
import { Page } from "../parts/frame.js";
import { Icon } from "../parts/icons.js";
import { Tree } from "../parts/tree.js";
import { When } from "../parts/when.js";
import { Failing, TargetState, pauseTarget, rests } from "./targets.js";

const STATUSES = ["queued", "dispatching", "retrying", "delivered", "dead_lettered", "cancelled"];

/** @param {{ name: string }} props */
export function TargetPage({ name }) {
  const status = place.value.query.get("status") || "";
  const target = useFetched(`targets/${path(name)}`);
  const reads = may("deliveries:read", name);
  const page = useFetched(reads ? "jobs" : null, { target: name, status, limit: 25, cursor: pageOfAddress().cursor });
  useLive(async () => {
    await target.reload();
    if (reads) await page.reload();
  }, { everyMs: 3000 });
  const data = target.data;
  const trail = [{ text: "Targets", to: link(["targets"]) }, name];
  if (!data) {
    return html`<${Page} title=${name} trail=${trail}><div class="head"><div><div class="title"><h1>${name}</h1></div></div></div>
      ${target.error ? html`<${Failed} error=${target.error} what=${`target ${name}`} right="targets:read" retry=${target.reload} />` : target.slow && html`<${Loading} what=${name} />`}<//>`;
  }
  const waits = data.depth.queued + data.depth.retrying;
  return html`<${Page} title=${name} trail=${trail} curl=${target.url}>
    <div class="head"><div><div class="title"><h1>${name}</h1><${TargetState} target=${data} /></div>
      <p>${waits ? `${plural(waits, "delivery waits", "deliveries wait")}, the oldest for ${duration((data.oldest_age_s || 0) * 1000)}.` : "Nothing waits."}</p></div>
      <div class="acts">
        ${may("targets:manage", name) && html`<button onClick=${() => pauseTarget(data, target.reload)}><${Icon} name=${rests(data) ? "resume" : "pause"} />${rests(data) ? "Resume" : "Pause"}</button>`}
        ${may("deliveries:add", name) && html`<button onClick=${() => sendEnvelope([name], name)}>Send test envelope</button>`}
        ${(data.config.group_by || data.config.group) && may("queues:read", `deliver-${name}`) && html`<a class="btn" href=${link(["queues", `deliver-${name}`, "groups"])}>Groups</a>`}
        ${data.dead_letters > 0 && reads && html`<a class="btn" href=${link(["dead-letters"], { target: name })}>Dead letters ${count(data.dead_letters)}</a>`}
      </div></div>
    ${data.pending_rollout?.length > 0 && html`<p class="note"><span class="st warn">Pending rollout</span> <span>${data.pending_rollout.map(String).join(", ")} apply when the instance restarts.</span></p>`}
    <div class="cols"><div>
      <nav class="tabs three" aria-label="States"><a href=${link(["targets", name])} aria-current=${status ? undefined : "true"}><b>All</b>newest first</a>
        ${STATUSES.map((one) => html`<a key=${one} href=${link(["targets", name], { status: one })} aria-current=${status === one ? "true" : undefined}><b>${one in data.depth ? count(data.depth[one]) : one === "dead_lettered" ? count(data.dead_letters) : html`<span class="zero" title="Not counted">–</span>`}</b>${one}</a>`)}</nav>
      ${reads ? html`<${Deliveries} page=${page} what=${status ? `${status} deliveries` : "deliveries"} />` : html`<p class="muted">The token may not see deliveries: it needs <code>deliveries:read</code>.</p>`}
    </div>
    <aside class="facts" aria-label="Facts">
      <section><header><h2>Breaker</h2></header><dl class="kv">
        <dt>State</dt><dd><${TargetState} target=${data} /></dd>
        ${data.recent && html`<dt>Failing</dt><dd><${Failing} recent=${data.recent} /><span class="sub">${data.recent.attempts ? `${count(data.recent.failed)} of ${plural(data.recent.attempts, "attempt")} in ${duration(data.recent.window_s * 1000)}` : `no attempt in ${duration(data.recent.window_s * 1000)}`}</span></dd>`}
        <dt>Failures counted</dt><dd>${count(data.breaker.failures)}</dd>
        ${data.breaker.opened_at && html`<dt>Opened</dt><dd><${When} at=${data.breaker.opened_at} /></dd>`}
      </dl></section>
      <section><header><h2>Deliveries</h2></header><dl class="kv">
        <dt>In flight</dt><dd>${count(data.depth.dispatching)} of ${count(data.config.concurrency)}</dd>
        <dt>Queued</dt><dd>${count(data.depth.queued)}</dd><dt>Retrying</dt><dd>${count(data.depth.retrying)}</dd><dt>Dead letters</dt><dd>${count(data.dead_letters)}</dd></dl></section>
      <section><header><h2>Policy</h2></header><${Tree} value=${data.config} box=${false} open=${1} /></section>
    </aside></div>
  <//>`;
}
