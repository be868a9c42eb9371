/** The last requests that the inspector of `toril dev` got, as they come. */
import { useEffect, useRef, useState } from "preact/hooks";
import { INSPECTOR, address, get } from "../lib/api.js";
import { bytes, duration, plural } from "../lib/format.js";
import { html } from "../lib/html.js";
import { fresh, useLive } from "../lib/live.js";
import { go, link, place, setQuery } from "../lib/router.js";
import { Empty, Failed, Loading } from "../parts/blank.js";
import { CopyButton } from "../parts/copy.js";
import { Page } from "../parts/frame.js";
import { useRows } from "../parts/rows.js";
import { When } from "../parts/when.js";

const SHOWN = 100;
const EVERY_MS = 1000;

export function InspectorPage() {
  const name = place.value.query.get("name") || "";
  const [found, setFound] = useState(/** @type {{ requests: any[] | null, error: any }} */ ({ requests: null, error: null }));
  const newest = useRef(0);
  // What came after the newest one is asked for: what is shown already may be megabytes.
  const read = async (/** @type {AbortSignal | undefined} */ signal = undefined) => {
    try {
      const { requests } = await get(INSPECTOR, { name, after: newest.current || undefined, limit: SHOWN }, signal);
      newest.current = requests[0]?.number || newest.current;
      fresh();
      setFound((before) => (before.requests && !requests.length && !before.error ? before : { requests: [...requests, ...(before.requests || [])].slice(0, SHOWN), error: null }));
    } catch (error) {
      if (error instanceof DOMException) return;
      setFound((before) => ({ ...before, error }));
      throw error;
    }
  };
  useEffect(() => {
    const ending = new AbortController();
    newest.current = 0;
    setFound({ requests: null, error: null });
    read(ending.signal).catch(() => {});
    return () => ending.abort();
  }, [name]);
  useLive(() => read(), { everyMs: EVERY_MS });
  const requests = found.requests || [];
  const at = useRows({ count: requests.length, open: (n) => go(link(["inspector", requests[n].number])) });
  const url = `${location.origin}${INSPECTOR}/${name || "NAME"}`;
  return html`<${Page} title="Inspector" trail=${["Inspector"]} curl=${address(INSPECTOR, { name })}>
    <div class="head"><div><div class="title"><h1>Inspector</h1></div><p>Answers anything at <code>${url}</code>, as a worker, an upstream or a target. <code>?status=503&delay=2s&body=…</code> says how.</p></div>
      <div class="acts"><${CopyButton} text=${() => url} label="Copy URL" quiet=${false} /></div></div>
    <form class="query" role="search" onSubmit=${(/** @type {any} */ event) => {
      event.preventDefault();
      setQuery({ name: event.currentTarget.elements.name.value.trim() });
    }}><input name="name" aria-label="Search" placeholder="A name, such as charge" defaultValue=${name} key=${name} autocomplete="off" spellcheck="false" /><button type="submit">Search</button></form>
    ${found.requests ? (requests.length ? html`<table class="jobs bare requests"><thead><tr><th>Request</th><th>Target</th><th class="n">Answer</th><th class="n c3">Body</th><th class="n">Came</th></tr></thead>
        <tbody>${requests.map((one, n) => html`<tr key=${one.number} data-row=${n} class=${n === at ? "shows-focus" : ""}>
          <td><a class="thing" href=${link(["inspector", one.number])}>${one.number}</a><span class="name">${one.method}</span></td><td class="cut"><bdi>${one.target}</bdi></td>
          <td class="n"><${Answered} one=${one} /></td><td class="n c3">${bytes(one.bodyBytes)}</td><td class="n"><${When} at=${one.at} /></td></tr>`)}</tbody></table>
        <div class="pages"><span>${requests.length < SHOWN ? plural(requests.length, "request") : `The newest ${SHOWN}`}</span><span class="grow"></span><span class="only-wide"><kbd>J</kbd> <kbd>K</kbd> move <kbd>Enter</kbd> open</span></div>`
      : html`<${Empty} title=${name ? `Nothing came under ${name} yet` : "Nothing came yet"}><p>Requests appear here as soon as they come. Try one:</p><pre tabindex="0">curl -d '{"amount": 42}' '${location.origin}${INSPECTOR}/${name || "charge"}?status=201'</pre><//>`)
      : found.error ? html`<${Failed} error=${found.error} what="what was inspected" right="payloads:read, on all queues" retry=${read} />` : html`<${Loading} what="requests" />`}
  <//>`;
}

/** @param {{ one: any }} props */
export function Answered({ one }) {
  return html`<span class=${`st ${one.status < 400 ? "good" : "warn"}`}>${one.status}</span>${one.delayMs > 0 && html`<span class="sub">after ${duration(one.delayMs)}</span>`}`;
}
