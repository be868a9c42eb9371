/** A live tail of the events of some queues. */
import { useEffect, useRef, useState } from "preact/hooks";
import { address } from "../lib/api.js";
import { exact } from "../lib/format.js";
import { html } from "../lib/html.js";
import * as live from "../lib/live.js";
import { go, link, place, setQuery } from "../lib/router.js";
import { Empty } from "../parts/blank.js";
import { Page } from "../parts/frame.js";
import { useRows } from "../parts/rows.js";

const KEPT = 500;
/** @type {Record<string, string>} */
const COLOURS = { completed: "good", failed: "bad", active: "busy", stalled: "warn", "retries-exhausted": "bad", paused: "warn", resumed: "good" };

/** @typedef {import("../lib/api.js").ApiError} ApiError */
/** @typedef {{ key: number, at: number, queue: string, name: string, jobId: string, rest: string }} Line */

export function EventsPage() {
  const queues = place.value.query.get("queues") || "";
  const names = place.value.query.get("names") || "";
  const [lines, setLines] = useState(/** @type {Line[]} */ ([]));
  const [wrong, setWrong] = useState("");
  const held = useRef(/** @type {Line[]} */ ([]));
  const number = useRef(0);
  const wanted = new Set(names.split(/[\s,]+/).filter(Boolean));

  useEffect(() => {
    if (!queues) return;
    const ending = new AbortController();
    setLines([]);
    setWrong("");
    held.current = [];
    const draw = setInterval(() => {
      if (live.paused.value) {
        live.waiting.value = held.current.length;
        return;
      }
      if (!held.current.length) return;
      const fresh = held.current.reverse();
      held.current = [];
      setLines((before) => [...fresh, ...before].slice(0, KEPT));
    }, 250);
    let since = ""; // what happens while the stream is broken off comes when it goes on
    const heard = (/** @type {{ id: string, event: string, data: string }} */ event) => {
      since = event.id || since;
      const data = JSON.parse(event.data);
      const { queue, jobId, ...rest } = data;
      held.current.push({ key: ++number.current, at: Date.now(), queue: queue || queues, name: event.event, jobId: jobId || "", rest: JSON.stringify(rest) });
      if (held.current.length > KEPT) held.current.shift();
    };
    const refused = (/** @type {ApiError} */ error) => {
      if (error.status < 400 || error.status >= 500) return false;
      setWrong(error.detail);
      live.state.value = "idle";
      return true;
    };
    live.keepFollowing(() => address("events", since ? { queues, since } : { queues }), ending.signal, heard, { opened: live.fresh, refused });
    return () => {
      ending.abort();
      clearInterval(draw);
      live.state.value = "idle";
    };
  }, [queues]);

  const shown = wanted.size ? lines.filter((line) => wanted.has(line.name)) : lines;
  const at = useRows({ count: shown.length, open: (n) => shown[n].jobId && go(link(["queues", shown[n].queue, "jobs", shown[n].jobId])) });
  return html`<${Page} title="Events" trail=${["Events"]} curl=${queues ? address("events", { queues }) : undefined}>
    <div class="head"><div><div class="title"><h1>Events</h1></div><p>What happens, as it happens.</p></div></div>
    <form class="query" role="search" onSubmit=${(/** @type {any} */ event) => {
      event.preventDefault();
      setQuery({ queues: event.currentTarget.elements.queues.value.replace(/\s+/g, ""), names: event.currentTarget.elements.names.value.trim() });
    }}>
      <input name="queues" aria-label="Search" placeholder="Queues, such as mails,orders" defaultValue=${queues} key=${`q${queues}`} autocomplete="off" />
      <input name="names" aria-label="Names" placeholder="Events, such as failed" defaultValue=${names} key=${`n${names}`} autocomplete="off" />
      <button type="submit">Search</button>
    </form>
    ${wrong && html`<p role="alert"><span class="st bad">Refused</span> ${wrong}</p>`}
    ${!queues ? html`<${Empty} title="Which queues?"><p>Name one or several, with commas between them.</p><//>`
      : shown.length ? html`<table class="events"><thead><tr><th>At</th><th>Queue</th><th>Event</th><th>Job</th><th>More</th></tr></thead><tbody>${shown.map((line, n) => html`<tr key=${line.key} data-row=${n} class=${n === at ? "shows-focus" : ""}>
        <td><time title=${exact(line.at)}>${exact(line.at).slice(11, 23)}</time></td><td><a href=${link(["queues", line.queue])}><bdi>${line.queue}</bdi></a></td><td><span class=${`st ${COLOURS[line.name] || "idle"}`}>${line.name}</span></td>
        <td>${line.jobId && html`<a href=${link(["queues", line.queue, "jobs", line.jobId])}><bdi>${line.jobId}</bdi></a>`}</td><td class="cut mono"><bdi>${line.rest === "{}" ? "" : line.rest}</bdi></td></tr>`)}</tbody></table>`
      : !wrong && html`<${Empty} title="Nothing has happened yet"><p>Events appear here as soon as they come.</p><//>`}
  <//>`;
}
