/** A page of deliveries. */
import { html } from "../lib/html.js";
import { go, link } from "../lib/router.js";
import { Empty, Failed, Loading } from "./blank.js";
import { ForwardPages, pageOfAddress } from "./forwardpages.js";
import { useRows } from "./rows.js";
import { State } from "./state.js";
import { When } from "./when.js";

/** @param {{ page: import("../lib/fetching.js").Fetched<any>, what: string }} props */
export function Deliveries({ page, what }) {
  const jobs = page.data?.jobs || [];
  const at = useRows({ count: jobs.length, open: (n) => go(link(["deliveries", jobs[n].job_id])) });
  if (!page.data) return page.error ? html`<${Failed} error=${page.error} what="The deliveries" right="deliveries:read" retry=${page.reload} />` : page.slow ? html`<${Loading} what=${what} />` : null;
  if (!jobs.length) return html`<${Empty} title=${`There are no ${pageOfAddress().number > 1 ? "more " : ""}${what}`} />${pageOfAddress().number > 1 && html`<${ForwardPages} next=${null} first="Newest" />`}`;
  return html`<table class="jobs bare"><thead><tr><th>Delivery</th><th>State</th><th>Last error</th><th class="c2">Labels</th><th class="n c3">Attempts</th><th class="n">Accepted</th></tr></thead>
    <tbody>${jobs.map((/** @type {any} */ job, /** @type {number} */ n) => html`<tr key=${job.job_id} data-row=${n} class=${n === at ? "shows-focus" : ""}>
      <td><a class="thing" href=${link(["deliveries", job.job_id])}>${job.job_id}</a></td><td><${State} word=${job.status} /></td>
      <td class="cut" title=${job.last_error || ""}><bdi>${job.last_error || ""}</bdi></td><td class="c2"><${Labels} labels=${job.labels} /></td>
      <td class="n c3">${job.attempts_made} of ${job.max_attempts}</td><td class="n"><${When} at=${job.created_at} /></td></tr>`)}</tbody></table>
    <${ForwardPages} next=${page.data.next_cursor} first="Newest"><span class="grow"></span><//>`;
}

/** @param {{ labels: Record<string, string> }} props */
export function Labels({ labels }) {
  return html`${Object.entries(labels || {}).map(([name, value]) => html`<code key=${name}><bdi>${name}=${value}</bdi></code> `)}`;
}
