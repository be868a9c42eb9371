/** All queues: how full they are, and which of them needs a person. */
import { useState } from "preact/hooks";
import { act, path } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { count } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { go, link, place, setQuery } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Empty, Failed, Loading } from "../parts/blank.js";
import { Spark } from "../parts/chart.js";
import { FIRST_PAGE, ForwardPages, pageOfAddress } from "../parts/forwardpages.js";
import { Page } from "../parts/frame.js";
import { useRows } from "../parts/rows.js";
import { State } from "../parts/state.js";
import { refusal } from "../parts/toasts.js";
import { addJob } from "../parts/addjob.js";

const LENGTH = 50;

export function QueuesPage() {
  const { query } = place.value;
  const match = query.get("match") || "";
  const { cursor, number } = pageOfAddress();
  const glob = match && !/[*?[]/.test(match) ? `*${match}*` : match;
  const { data, error, slow, reload, url } = useFetched("queues", { match: glob, limit: LENGTH, cursor });
  const names = (data?.queues || []).map((/** @type {any} */ queue) => queue.name);
  const stats = useFetched(names.length ? "stats" : null, { queues: names.join(","), window: "1h" });
  useLive(reload, { everyMs: 3000 });
  return html`<${Page} title="Queues" trail=${["Queues"]} curl=${url}>
    <div class="head"><div><div class="title"><h1>Queues</h1></div></div>
      <div class="acts">${may("jobs:add") && html`<button onClick=${() => addJob().then((queue) => queue && go(link(["queues", queue])))}>Add job</button>`}</div></div>
    <form class="query" role="search" onSubmit=${(/** @type {any} */ event) => {
      event.preventDefault();
      setQuery({ match: event.currentTarget.elements.match.value, ...FIRST_PAGE });
    }}>
      <input name="match" aria-label="Search" placeholder="A part of a name, or mails-*" defaultValue=${match} key=${match} autocomplete="off" />
      <button type="submit">Search</button>
    </form>
    ${data ? (data.queues.length ? html`<${List} queues=${data.queues} stats=${stats.data?.queues || {}} reload=${reload} />`
        : html`<${Empty} title=${match ? `No queue is called ${match}` : "No queue has jobs yet"}>
            ${match ? html`<button onClick=${() => setQuery({ match: undefined, ...FIRST_PAGE })}>Clear search</button>` : html`<p>A queue exists from its first job on. Add one here, or from anywhere that speaks HTTP:</p>
              <pre tabindex="0">curl -X POST $TORIL/queues/orders/jobs \\
  -H "authorization: Bearer $TOKEN" \\
  -d '[{"name": "charge", "data": {"amount": 42}}]'</pre>`}
          <//>`)
      : error ? html`<${Failed} error=${error} what="The queues" right="queues:read" retry=${reload} />` : slow && html`<${Loading} what="queues" />`}
    ${data && (number > 1 || data.next_cursor) && html`<${ForwardPages} next=${data.next_cursor} first="First">
      <span>${data.queues.length ? `${count(LENGTH * (number - 1) + 1)} to ${count(LENGTH * (number - 1) + data.queues.length)}, by name` : ""}</span><span class="grow"></span><//>`}
  <//>`;
}

/** @param {{ queues: any[], stats: Record<string, any>, reload: () => Promise<void> }} props */
function List({ queues, stats, reload }) {
  const at = useRows({ count: queues.length, open: (n) => go(link(["queues", queues[n].name])) });
  const [busy, setBusy] = useState("");
  const pause = async (/** @type {any} */ queue) => {
    setBusy(queue.name);
    try {
      await act("POST", `queues/${path(queue.name)}/${queue.paused ? "resume" : "pause"}`);
    } catch (error) {
      refusal(error);
    }
    await reload().catch(() => {});
    setBusy("");
  };
  return html`<div class="wide" tabindex="0" role="region" aria-label="Queues"><table>
    <thead><tr><th>Queue</th><th>State</th><th class="n">Waiting</th><th class="n">Active</th><th class="n c2">Delayed</th><th class="n c2">Prioritized</th><th class="n c3">Completed</th><th class="n">Failed</th><th class="n c3">Finished, 1 h</th><th class="n only-wide"><span class="sr">Actions</span></th></tr></thead>
    <tbody>${queues.map((queue, n) => {
      const counts = queue.counts;
      const waits = counts.waiting + counts.paused;
      const finished = stats[queue.name]?.finished || [];
      return html`<tr key=${queue.name} data-row=${n} class=${n === at ? "shows-focus" : ""}>
        <th scope="row" class="cut"><a class="thing" href=${link(["queues", queue.name])}><bdi>${queue.name}</bdi></a></th>
        <td>${queue.paused ? html`<${State} word="paused" />` : html`<${State} word="running" as="good" />`}</td>
        <${Number} value=${waits} /><${Number} value=${counts.active} /><${Number} value=${counts.delayed} more="c2" /><${Number} value=${counts.prioritized} more="c2" />
        <${Number} value=${counts.completed} more="c3" /><td class=${`n ${counts.failed ? "" : "zero"}`}>${counts.failed ? html`<a href=${link(["queues", queue.name], { state: "failed" })}>${count(counts.failed)}</a>` : "0"}</td>
        <td class="n c3"><${Spark} values=${finished} label=${`Finished of ${queue.name}, last hour`} /></td>
        <td class="n only-wide">${may("queues:manage", queue.name) && html`<button disabled=${busy === queue.name} aria-label=${`${queue.paused ? "Resume" : "Pause"} ${queue.name}`} onClick=${() => pause(queue)}>${queue.paused ? "Resume" : "Pause"}</button>`}</td>
      </tr>`;
    })}</tbody>
  </table></div>`;
}

/** @param {{ value: number, more?: string }} props */
export function Number({ value, more = "" }) {
  return html`<td class=${`n ${more} ${value ? "" : "zero"}`}>${count(value)}</td>`;
}
