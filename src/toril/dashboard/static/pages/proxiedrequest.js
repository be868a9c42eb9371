/** One proxied request: the request and the answer as they were. */
import { act, address, path, send } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { bytes, duration } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { go, link } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Failed, Loading } from "../parts/blank.js";
import { Content, Headers, header } from "../parts/content.js";
import { copy } from "../parts/copy.js";
import { confirm } from "../parts/dialog.js";
import { Page } from "../parts/frame.js";
import { Icon } from "../parts/icons.js";
import { State } from "../parts/state.js";
import { refusal, toast } from "../parts/toasts.js";
import { When } from "../parts/when.js";

/** @param {{ id: string }} props */
export function ProxiedRequestPage({ id }) {
  const { data, error, slow, reload, url } = useFetched(`proxied/${path(id)}`);
  useLive(reload, { everyMs: 3000 });
  return html`<${Page} title=${`Request ${id}`} trail=${[{ text: "Requests", to: link(["proxy"]) }, id]} curl=${url}>
    ${data ? html`<${Request} one=${data} />` : html`<div class="head"><div><div class="title"><h1>${id}</h1></div></div></div>
      ${error ? html`<${Failed} error=${error} what=${`request ${id}`} right="jobs:read" retry=${reload} />` : slow && html`<${Loading} what=${id} />`}`}
  <//>`;
}

/** @param {{ one: any }} props */
function Request({ one }) {
  const manages = may("jobs:manage", one.queue);
  const over = one.status === "completed" || one.status === "failed";
  const request = one.request;
  const response = one.response;
  return html`<div class="head"><div><div class="title"><h1>${one.id}</h1><${State} word=${one.status} /></div>
      <p><code><bdi>${request.method} ${request.target}</bdi></code> to upstream <a href=${link(["proxy"], { queue: one.queue })}><bdi>${one.upstream}</bdi></a></p></div>
      <div class="acts">${manages && html`<button class="danger" onClick=${async () => {
          const text = over ? "The request and its answer are forgotten. This cannot be undone." : "A running attempt is broken off, and the request is forgotten. This cannot be undone.";
          if (!(await confirm({ title: `Cancel ${one.id}?`, text, danger: true, act: () => act("DELETE", `proxied/${path(one.id)}`) }))) return;
          toast("good", "Cancelled");
          go(link(["proxy"], { queue: one.queue }));
        }}>Cancel</button>`}
        ${may("jobs:add", one.queue) && html`<button onClick=${async () => {
          try {
            const answer = await act("POST", `proxied/${path(one.id)}/replay`);
            toast("good", "Sent again as a new request", { link: { to: link(["proxy", answer.jobId]), text: "Open" } });
          } catch (error) {
            refusal(error);
          }
        }}>Replay</button>`}</div></div>
    <ol class="steps" aria-label="Timeline">
      <li><b>Accepted</b><${When} at=${one.accepted_at} /></li>
      <li><b>${one.started_at ? `Waited ${duration(Date.parse(one.started_at) - Date.parse(one.accepted_at))}` : "Waits"}</b>${one.started_at ? html`<${When} at=${one.started_at} />` : ""}</li>
      <li><b>${one.attempts_made === 1 ? "1 attempt" : `${one.attempts_made} attempts`}</b>${one.failed_reason ? html`<span class="sub"><bdi>${one.failed_reason}</bdi></span>` : ""}</li>
      <li><b>${one.finished_at ? `Answered after ${duration(Date.parse(one.finished_at) - Date.parse(one.accepted_at))}` : "No answer yet"}</b>${response ? html`<span class=${`st ${response.status < 400 ? "good" : "warn"}`}>${response.status}</span>` : one.status === "failed" ? html`<span class="st bad">failed</span>` : ""}</li>
      <li><b>Kept</b>${one.kept_until ? html`<span class="sub">until <${When} at=${one.kept_until} /></span>` : html`<span class="sub">until it is over</span>`}</li>
    </ol>
    <div class="halves pair">
      <section aria-labelledby="rq"><header><h2 id="rq">Request</h2><span class="muted">as it was sent, ${bytes(request.body_bytes)}</span><span class="grow"></span><button class="quiet" onClick=${() => copyRequest(one)}><${Icon} name="copy" />Copy request as curl</button></header>
        <${Headers} headers=${request.headers} /><${Content} route=${`proxied/${path(one.id)}/request`} size=${request.body_bytes} type=${header(request.headers, "content-type")} name=${`${one.id}-request`} /></section>
      <section aria-labelledby="rs"><header><h2 id="rs">Response</h2>${response ? html`<span class=${`st ${response.status < 400 ? "good" : "warn"}`}>${response.status}</span><span class="muted">as it came, ${bytes(response.body_bytes)}</span>` : ""}</header>
        ${response ? html`<${Headers} headers=${response.headers} /><${Content} route=${`proxied/${path(one.id)}/response`} size=${response.body_bytes} type=${header(response.headers, "content-type")} name=${`${one.id}-response`} />` : html`<p class="muted">${one.failed_reason || "There is no answer yet."}</p>`}</section>
    </div>`;
}

/** A command line that sends the same request; hidden headers are left out. @param {any} one @param {string} body */
function requestAsCurl(one, body) {
  const quoted = (/** @type {string} */ text) => `'${text.replaceAll("'", "'\\''")}'`;
  const own = one.request.headers.filter((/** @type {[string, string]} */ [name, value]) => value !== "(hidden)" && !/^(host|content-length|x-forwarded-.*|x-real-ip|forwarded)$/i.test(name));
  const url = location.origin + (one.upstream === "/" ? "" : one.upstream) + one.request.target;
  const lines = [`curl -X ${one.request.method} ${quoted(url)}`, ...own.map((/** @type {[string, string]} */ [name, value]) => `-H ${quoted(`${name}: ${value}`)}`)];
  if (body) lines.push(`--data-binary ${quoted(body)}`);
  return lines.join(" \\\n  ");
}

/** @param {any} one */
async function copyRequest(one) {
  try {
    const body = one.request.body_bytes && may("payloads:read") ? await (await send("GET", address(`proxied/${path(one.id)}/request`), { headers: { accept: "*/*" } })).text() : "";
    await copy(requestAsCurl(one, body));
  } catch (error) {
    refusal(error);
  }
}
