/** A job's parents and children, with their states. */
import { path } from "../lib/api.js";
import { useFetched, useFetchedAgain } from "../lib/fetching.js";
import { html } from "../lib/html.js";
import { link } from "../lib/router.js";
import { State } from "./state.js";

/** @param {any} job @returns {{ queue: string, id: string } | null} */
export function parentOf(job) {
  const parent = job.parent;
  if (!parent || typeof parent !== "object" || !parent.id) return null;
  return { id: parent.id, queue: withoutPrefix(parent.queueKey || "", job.queueQualifiedName) };
}

/** The queue's name in a qualified one, whose prefix is that of another. @param {string} qualified @param {string} like */
export function withoutPrefix(qualified, like) {
  const prefix = (like || "").split(":")[0];
  return prefix && qualified.startsWith(`${prefix}:`) ? qualified.slice(prefix.length + 1) : qualified.slice(qualified.indexOf(":") + 1);
}

/** @param {any} job */
export function queueOf(job) {
  const qualified = job.queueQualifiedName || "";
  return qualified.slice(qualified.indexOf(":") + 1);
}

/** @param {{ queue: string, id: string, job: any, parent: { queue: string, id: string } | null }} props */
export function Family({ queue, id, parent }) {
  const flow = useFetched(`queues/${path(queue)}/jobs/${path(id)}/flow`, { depth: 2, maxChildren: 10 });
  const children = flow.data?.children || [];
  if (!parent && !children.length) return null;
  return html`<section><header><h2>Flow</h2><a href=${link(["flows", parent?.queue || queue, parent?.id || id])}>Open tree</a></header>
    <ul class="family">${parent
      ? html`<li><div><a href=${link(["queues", parent.queue, "jobs", parent.id])}><bdi>${parent.queue} ${parent.id}</bdi></a><span class="muted">parent</span></div>
          <ul><li><div><b aria-current="true"><bdi>${queue} ${id}</bdi></b></div>${children.length > 0 && html`<ul>${children.map(child)}</ul>`}</li></ul></li>`
      : html`<li><div><b aria-current="true"><bdi>${queue} ${id}</bdi></b></div><ul>${children.map(child)}</ul></li>`}</ul></section>`;
}

/** @param {any} node */
function child(node) {
  const queue = queueOf(node.job);
  return html`<li key=${`${queue} ${node.job.id}`}><div><a href=${link(["queues", queue, "jobs", node.job.id])}><bdi>${queue} ${node.job.id}</bdi></a><${JobState} queue=${queue} job=${node.job} /></div></li>`;
}

/** A job's state: known of one that has ended, asked of one that has not. @param {{ queue: string, job: any, version?: number }} props */
export function JobState({ queue, job, version = 0 }) {
  const ended = job.finishedOn && (job.failedReason ? "failed" : "completed");
  const asked = useFetchedAgain(ended ? null : `queues/${path(queue)}/jobs/${path(job.id)}`, { state: "true" }, version);
  const word = ended || asked.data?.state;
  return word ? html`<${State} word=${word} />` : html`<span class="st idle">…</span>`;
}
