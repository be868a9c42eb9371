/** Who is connected: workers by socket, and those that lease jobs over HTTP. */
import { useFetchedAgain } from "../lib/fetching.js";
import { count, plural } from "../lib/format.js";
import { html } from "../lib/html.js";
import { link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { When } from "./when.js";

/** @param {{ version: number }} props */
export function Connected({ version }) {
  const { data } = useFetchedAgain(may("workers:read") ? "connections" : null, {}, version);
  if (!data) return null;
  const rows = [
    ...data.sockets.map((/** @type {any} */ one) => ({ ...one, kind: "socket", who: `${one.token || "no token"}, ${one.address || "unknown"}`, slots: one.concurrency, ids: one.jobs })),
    ...data.leases.map((/** @type {any} */ one) => ({ ...one, kind: "lease", who: one.worker || "without a name", since: oldest(one.jobs), ids: one.jobs.map((/** @type {any} */ job) => job.id) })),
  ];
  return html`<section><header><h2>Connected</h2><span class="muted">${rows.length ? `${plural(data.sockets.length, "socket")}, ${plural(data.leases.length, "lease holder")}` : ""}</span></header>
    ${rows.length ? html`<div class="wide" tabindex="0" role="region" aria-label="Connected"><table class="lines">
      <thead><tr><th>Queue</th><th>By</th><th>Who</th><th class="n c3">Slots</th><th class="n">Holds</th><th class="c2">Jobs</th><th class="n">Since</th></tr></thead>
      <tbody>${rows.map((one, n) => html`<tr key=${`${one.kind} ${one.queue} ${one.who} ${n}`}>
        <th scope="row"><a href=${link(["queues", one.queue])}><bdi>${one.queue}</bdi></a></th>
        <td class="ends"><span class="st good">${one.kind}</span></td><td class="cut"><bdi>${one.who}</bdi></td>
        <td class="n c3">${one.slots === undefined ? "" : count(one.slots)}</td><td class="n ends">${count(one.holding)}</td>
        <td class="c2">${one.ids.slice(0, 3).map((/** @type {string} */ id) => html`<a key=${id} href=${link(["queues", one.queue, "jobs", id])}><bdi>${id}</bdi></a> `)}${one.holding > 3 ? "…" : ""}</td>
        <td class="n gone"><${When} at=${one.since} /></td></tr>`)}</tbody></table></div>` : html`<p class="muted">No worker is connected by socket, and no job is leased.</p>`}
    ${data.left_out > 0 && html`<p class="muted">${plural(data.left_out, "queue was", "queues were")} not looked at; each one's own page says who is connected.</p>`}
  </section>`;
}

/** @param {{ since: string }[]} jobs */
function oldest(jobs) {
  return jobs.map((one) => one.since).sort()[0] || null;
}
