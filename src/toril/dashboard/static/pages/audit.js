/** What was done, by which token: the audit log's last thousand lines. */
import { useState } from "preact/hooks";
import { useFetched } from "../lib/fetching.js";
import { count } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { Empty, Failed, Loading } from "../parts/blank.js";
import { Page } from "../parts/frame.js";
import { When } from "../parts/when.js";

export function AuditPage() {
  const [text, setText] = useState("");
  const { data, error, slow, reload, url } = useFetched("audit");
  useLive(reload, { everyMs: 4000 });
  const wanted = text.trim().toLowerCase();
  const lines = (data?.lines || []).filter((/** @type {any} */ line) => !wanted || `${line.caller} ${line.action} ${line.queue || ""} ${line.target || ""} ${line.id || ""} ${line.status}`.toLowerCase().includes(wanted));
  return html`<${Page} title="Audit" trail=${["Audit"]} curl=${url}>
    <div class="head"><div><div class="title"><h1>Audit</h1></div><p>What was done, by which token. Reads and the traffic of jobs are not in it.</p></div></div>
    <form class="query" role="search" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}><input aria-label="Search" placeholder="A token, an action, a queue, a status" value=${text} onInput=${(/** @type {any} */ event) => setText(event.currentTarget.value)} autocomplete="off" /></form>
    ${data ? (lines.length ? html`<div class="wide" tabindex="0" role="region" aria-label="Audit log"><table class="lines"><thead><tr><th>At</th><th>Token</th><th>What</th><th>Where</th><th class="n">Status</th></tr></thead><tbody>${lines.slice(0, 300).map((/** @type {any} */ line, /** @type {number} */ n) => html`<tr key=${line.id_ || n}>
        <td class="ends"><${When} at=${line.at} /></td><td><bdi>${line.caller || "unknown"}</bdi></td><td class="cut whole"><code><bdi>${line.action}</bdi></code></td>
        <td><bdi>${[line.queue, line.target, line.id, line.job, line.key].filter(Boolean).join(" ")}</bdi></td><td class="n ends"><span class=${`st ${line.status < 400 ? "good" : line.status < 500 ? "warn" : "bad"}`}>${line.status}</span></td></tr>`)}</tbody></table></div>
        ${lines.length > 300 && html`<div class="pages"><span>The newest 300 of ${count(lines.length)}</span></div>`}` : html`<${Empty} title=${wanted ? "Nothing matches" : "Nothing was done yet"} />`)
      : error ? html`<${Failed} error=${error} what="The audit log" right="audit:read" retry=${reload} />` : slow && html`<${Loading} what="the audit log" />`}
  <//>`;
}
