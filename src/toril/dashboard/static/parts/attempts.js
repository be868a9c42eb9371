/** Every attempt of a job: queued, waited, started, which worker, what came of it. */
import { count, duration, exact } from "../lib/format.js";
import { html } from "../lib/html.js";
import { When } from "./when.js";

const WIDTH = 780;
/** Below this, the axis says how long after the beginning: clock times would all be the same. */
const SHORT_MS = 20_000;

/** An attempt that will be made again is amber; only the last is red. @param {any} attempt */
function colour(attempt) {
  if (attempt.outcome === "completed") return "good";
  if (attempt.outcome === "handed_over") return "busy";
  if (attempt.outcome === "released") return "idle";
  return attempt.verdict === "fail" || attempt.outcome === "failed_for_good" ? "bad" : "warn";
}

/** @param {{ attempts: any[], job: any, state: string }} props newest first */
export function Attempts({ attempts, job, state }) {
  const most = Math.max(1, job.opts?.attempts || 1);
  if (!attempts.length) {
    return html`<section><header><h2>Attempts</h2></header><p class="muted">${state === "active" ? "The first one is under way." : job.attemptsMade ? `${count(job.attemptsMade)} made, by a worker that keeps no record of them here.` : "None yet."}</p></section>`;
  }
  const end = Math.max(...attempts.map((one) => one.at + one.durationMs), job.finishedOn || 0);
  const begin = Math.min(job.timestamp, ...attempts.map((one) => one.at));
  const span = Math.max(1, end - begin);
  const x = (/** @type {number} */ at) => ((at - begin) / span) * WIDTH;
  return html`<section>
    <header><h2>Attempts</h2><span class="muted">${count(job.attemptsMade)} of ${count(most)} used${job.finishedOn ? `, ${duration(job.finishedOn - job.timestamp)} from queued to ${state}` : ""}</span></header>
    <div class="gantt" role="img" aria-label=${`${attempts.length} attempts over ${duration(span)}`}>
      <svg viewBox="0 0 ${WIDTH} 34" preserveAspectRatio="none"><path class="wait" d="M0,17H${WIDTH}" />
        ${attempts.map((one) => html`<rect key=${`${one.number} ${one.at}`} class=${colour(one)} x=${Math.min(WIDTH - 4, x(one.at)).toFixed(1)} y="6" height="22" width=${Math.max(4, (one.durationMs / span) * WIDTH).toFixed(1)}><title>Attempt ${one.number}, ${duration(one.durationMs)}, ${one.status || one.outcome}</title></rect>`)}</svg>
      <div class="axis" aria-hidden="true">${[0, 0.25, 0.5, 0.75, 1].map((part) => html`<span key=${part}>${part && span < SHORT_MS ? `+${duration(part * span)}` : exact(begin + part * span).slice(11, 19)}</span>`)}</div>
    </div>
    <div class="wide" tabindex="0" role="region" aria-label="Attempts"><table>
      <thead><tr><th class="n">No</th><th>Outcome</th><th>Reason</th><th class="c2">Worker</th><th class="n c3">Waited</th><th class="n">Took</th><th class="n">Started</th></tr></thead>
      <tbody>${attempts.map((one) => html`<tr key=${`${one.number} ${one.at}`}>
        <td class="n">${one.number}</td><td><span class=${`st ${colour(one)}`}>${one.status || one.outcome}</span></td>
        <td class="cut" title=${one.reason || ""}><bdi>${one.reason || ""}</bdi>${one.nextInMs ? ` Next in ${duration(one.nextInMs)}` : ""}</td>
        <td class="c2"><bdi>${one.worker || ""}</bdi></td><td class="n c3">${one.waitedMs === null || one.waitedMs === undefined ? "" : duration(one.waitedMs)}</td>
        <td class="n">${duration(one.durationMs)}</td><td class="n"><${When} at=${one.at} /></td></tr>`)}</tbody>
    </table></div>
  </section>`;
}
