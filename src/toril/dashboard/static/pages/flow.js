/** A tree of jobs with their states. */
import { useState } from "preact/hooks";
import { path } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { link } from "../lib/router.js";
import { Failed, Loading } from "../parts/blank.js";
import { JobState, queueOf } from "../parts/family.js";
import { Page } from "../parts/frame.js";
import { When } from "../parts/when.js";

/** @param {{ queue: string, id: string }} props */
export function FlowPage({ queue, id }) {
  const { data, error, slow, reload, url } = useFetched(`queues/${path(queue)}/jobs/${path(id)}/flow`, { depth: 10, maxChildren: 50 });
  const [version, setVersion] = useState(0);
  useLive(async () => {
    await reload();
    setVersion((n) => n + 1);
  }, { everyMs: 3000 });
  return html`<${Page} title=${`Flow ${id}`} trail=${[{ text: "Queues", to: link(["queues"]) }, { text: queue, to: link(["queues", queue]) }, { text: id, to: link(["queues", queue, "jobs", id]) }, "Flow"]} curl=${url}>
    <div class="head"><div><div class="title"><h1>Flow of <bdi>${id}</bdi></h1></div><p>Children are worked on before their parent.</p></div></div>
    ${data ? html`<ul class="family large">${node(data, version)}</ul>` : error ? html`<${Failed} error=${error} what="the flow" right="jobs:read" retry=${reload} />` : slow && html`<${Loading} what="the flow" />`}
  <//>`;
}

/** @param {any} tree @param {number} version @returns {any} */
function node(tree, version) {
  const queue = queueOf(tree.job);
  return html`<li key=${`${queue} ${tree.job.id}`}>
    <div><span><a class="thing" href=${link(["queues", queue, "jobs", tree.job.id])}><bdi>${tree.job.id}</bdi></a> <span class="muted"><bdi>${tree.job.name}</bdi> in <a href=${link(["queues", queue])}><bdi>${queue}</bdi></a></span></span>
      <span class="acts"><${JobState} queue=${queue} job=${tree.job} version=${version} /><${When} at=${tree.job.finishedOn || tree.job.processedOn || tree.job.timestamp} /></span></div>
    ${tree.children?.length > 0 && html`<ul>${tree.children.map((/** @type {any} */ one) => node(one, version))}</ul>`}
  </li>`;
}
