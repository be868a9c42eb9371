/** One request that the inspector of `toril dev` got, and what it answered. */
import { INSPECTOR, address } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { bytes, duration } from "../lib/format.js";
import { html } from "../lib/html.js";
import { link } from "../lib/router.js";
import { Empty, Failed, Loading } from "../parts/blank.js";
import { Body } from "../parts/body.js";
import { Headers, header } from "../parts/content.js";
import { Page } from "../parts/frame.js";
import { When } from "../parts/when.js";
import { Answered } from "./inspector.js";

/** @param {{ number: number }} props */
export function InspectedPage({ number }) {
  const query = { after: Math.max(0, number - 1), before: number + 1 };
  const { data, error, slow, reload } = useFetched(INSPECTOR, query);
  const one = data?.requests[0];
  const trail = [{ text: "Inspector", to: link(["inspector"]) }, ...(one ? [{ text: one.name, to: link(["inspector"], { name: one.name }) }] : []), String(number)];
  return html`<${Page} title=${`Request ${number}`} trail=${trail} curl=${address(INSPECTOR, query)}>
    ${one ? html`<${Inspected} one=${one} />` : html`<div class="head"><div><div class="title"><h1>Request ${number}</h1></div></div></div>
      ${error ? html`<${Failed} error=${error} what="the request" right="payloads:read, on all queues" retry=${reload} />`
        : data ? html`<${Empty} title="It is no longer kept"><p class="muted">The inspector keeps the last 500 requests, until toril dev ends.</p><//>` : slow && html`<${Loading} what="the request" />`}`}
  <//>`;
}

/** @param {{ one: any }} props */
function Inspected({ one }) {
  const held = one.body === undefined ? Uint8Array.from(atob(one.bodyBase64), (letter) => letter.charCodeAt(0)) : new TextEncoder().encode(one.body);
  const answer = new TextEncoder().encode(one.answer);
  return html`<div class="head"><div><div class="title"><h1>Request ${one.number}</h1><${Answered} one=${one} /></div>
      <p><code><bdi>${one.method} ${one.target}</bdi></code> <${When} at=${one.at} /></p></div></div>
    <div class="halves pair">
      <section aria-labelledby="rq"><header><h2 id="rq">Request</h2><span class="muted">${bytes(one.bodyBytes)}</span></header>
        <${Headers} headers=${one.headers} />
        ${one.bodyBytes ? html`<${Body} held=${held} size=${one.bodyBytes} type=${header(one.headers, "content-type")} />` : html`<h3>Body</h3><p class="muted">There is none.</p>`}</section>
      <section aria-labelledby="rs"><header><h2 id="rs">Response</h2><span class=${`st ${one.status < 400 ? "good" : "warn"}`}>${one.status}</span><span class="muted">${bytes(answer.length)}${one.delayMs ? `, after ${duration(one.delayMs)}` : ""}</span></header>
        ${one.answerType && html`<${Headers} headers=${[["content-type", one.answerType]]} />`}
        ${answer.length ? html`<${Body} held=${answer} size=${answer.length} type=${one.answerType} />` : html`<h3>Body</h3><p class="muted">There is none.</p>`}</section>
    </div>`;
}
