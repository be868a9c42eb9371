/** Whether all is well, in five seconds; and what needs attention first. */
import { act, path } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { count, duration, plural, rate } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { link, place } from "../lib/router.js";
import { hasDoor, may } from "../lib/session.js";
import { Failed, Loading } from "../parts/blank.js";
import { Chart, Spark } from "../parts/chart.js";
import { Page } from "../parts/frame.js";
import { refusal, toast } from "../parts/toasts.js";
import { When } from "../parts/when.js";

const WINDOWS = [["1h", "1 hour"], ["24h", "1 day"], ["7d", "1 week"]];
const DOORS = /** @type {const} */ ([
  ["queues", "Queues", ["queues"]],
  ["proxy", "Async proxy", ["proxy"]],
  ["delivery", "Deliveries", ["targets"]],
]);
/** @type {Record<string, [string, string]>} */
const KINDS = {
  breaker_open: ["bad", "Breaker open"],
  target_failing: ["bad", "Target fails"],
  worker_failing: ["bad", "Worker fails"],
  not_worked_on: ["warn", "No worker"],
  oldest_grows: ["warn", "Oldest job grows"],
  stalled: ["warn", "Jobs stall"],
  paused_long: ["warn", "Paused for long"],
  not_ready: ["bad", "Not ready"],
  paused: ["warn", "Paused"],
  held: ["warn", "Held"],
};

/** The newest whole point of a series, a second. @param {number[]} values @param {number} step_s */
function perSecond(values, step_s) {
  const whole = values.length > 1 ? values[values.length - 2] : values[0] || 0;
  return whole / step_s;
}

export function OverviewPage() {
  const window = place.value.query.get("window") || "1h";
  const { data, error, slow, reload, url } = useFetched("stats", { window });
  useLive(reload, { everyMs: 5000 });
  return html`<${Page} title="Overview" trail=${["Overview"]} curl=${url}>
    ${data ? html`<${Overview} data=${data} window=${window} reload=${reload} />`
      : error ? html`<h1 class="sr">Overview</h1><${Failed} error=${error} what="the overview" right="queues:read" retry=${reload} />`
      : html`<h1 class="sr">Overview</h1>${slow && html`<${Loading} what="the overview" />`}`}
  <//>`;
}

/** @param {{ data: any, window: string, reload: () => Promise<void> }} props */
function Overview({ data, window, reload }) {
  const trouble = data.attention.length;
  const quiet = data.paused;
  const finished = Object.values(data.doors).reduce((sum, /** @type {any} */ door) => sum + perSecond(door.finished, data.step_s), 0);
  const pausedCount = quiet.filter((/** @type {any} */ one) => one.kind === "paused").length;
  const asides = [
    pausedCount && `${plural(pausedCount, "thing is", "things are")} paused`,
    quiet.length - pausedCount && `${plural(quiet.length - pausedCount, "thing is", "things are")} held`,
  ].filter(Boolean);
  return html`
    <div class="head"><div class="verdict">
      <h1 class="sr">Overview</h1>
      <p role="status"><strong>${trouble ? `${plural(trouble, "thing needs", "things need")} attention` : "All is well"}</strong>
        <span>${trouble ? "Everything else is moving: " : ""}${rate(finished)} jobs finish a second.${asides.length ? ` ${asides.join(", ")}.` : ""}</span></p>
    </div></div>
    ${trouble > 0 && html`<ul class="facts-list" aria-label="Needs attention">${data.attention.map((/** @type {any} */ one) => html`<${Fact} key=${`${one.kind} ${one.name}`} one=${one} reload=${reload} />`)}</ul>`}
    <section>
      <header><h2>Doors</h2><span class="grow only-wide"></span>
        <div class="key"><span class="acc">Accepted</span><span>Finished</span><span class="bad">Failed</span></div>
        <div class="seg" role="group" aria-label="Window">${WINDOWS.map(([value, text]) => html`<a key=${value} href=${link([], { window: value === "1h" ? undefined : value })} aria-current=${window === value ? "true" : undefined}>${text}</a>`)}</div>
      </header>
      <table class="doors">
        <thead><tr><th>Door</th><th>${WINDOWS.find(([value]) => value === window)?.[1] || "1 hour"}, jobs a second</th><th class="n">Accepted/s</th><th class="n">Started/s</th><th class="n">Finished/s</th><th class="n">Failed/s</th><th class="n">Backlog</th><th class="n">Oldest</th><th class="n">Wait<br />p50, p99</th><th class="n">Attempt<br />p50, p99</th></tr></thead>
        <tbody>${DOORS.filter(([door]) => data.doors[door]).map(([door, name, to], n, all) => html`<${Door} key=${door} name=${name} to=${to} door=${data.doors[door]} data=${data} last=${n === all.length - 1} />`)}</tbody>
      </table>
    </section>
    ${quiet.length > 0 && html`<section><header><h2>Paused and held</h2></header>
      <ul class="facts-list calm" aria-label="Paused and held">${quiet.map((/** @type {any} */ one) => html`<${Fact} key=${`${one.kind} ${one.name}`} one=${one} reload=${reload} />`)}</ul></section>`}
    <div class="halves">
      ${hasDoor("queues") && html`<section>
        <header><h2>Most waiting</h2><span class="grow"></span><a href=${link(["queues"])}>All queues</a></header>
        ${data.most_waiting.length ? html`<table><thead><tr><th>Queue</th><th class="n">Waiting</th><th class="n">Active</th><th class="n">Oldest</th><th class="n c3">Finished, 1 h</th></tr></thead><tbody>
          ${data.most_waiting.map((/** @type {any} */ row) => html`<tr key=${row.queue}><th scope="row" class="cut"><a href=${link(["queues", row.queue])}><bdi>${row.queue}</bdi></a></th>
            <td class="n">${count(row.waiting)}</td><td class=${`n ${row.active ? "" : "zero"}`}>${count(row.active)}</td><td class="n">${duration(row.oldest_ms)}</td>
            <td class="n c3"><${Spark} values=${row.finished} label=${`Finished of ${row.queue}, last hour`} /></td></tr>`)}
        </tbody></table>` : html`<p class="muted">Nothing waits in any queue.</p>`}
      </section>`}
      <section>
        <header><h2>Why things failed, last hour</h2></header>
        ${data.reasons.length ? html`<table><thead><tr><th>Reason</th><th class="c3">Where</th><th class="n">Times</th><th class="n">Last</th></tr></thead><tbody>
          ${data.reasons.map((/** @type {any} */ row) => html`<tr key=${`${row.where} ${row.reason}`}><td class="cut" title=${row.reason}><bdi>${row.reason}</bdi></td><td class="c3"><${Where} row=${row} /></td><td class="n">${count(row.times)}</td><td class="n"><${When} at=${row.last} /></td></tr>`)}
        </tbody></table>` : html`<p class="muted">Nothing has failed.</p>`}
      </section>
    </div>`;
}

/** @param {{ row: any }} props */
function Where({ row }) {
  if (row.door === "delivery") return html`<a href=${link(["targets", row.where])}>${row.where}</a>`;
  return html`<a href=${link(["queues", row.where], { state: "failed" })}>${row.where}</a>`;
}

/** @param {{ name: string, to: readonly string[], door: any, data: any, last: boolean }} props */
function Door({ name, to, door, data, last }) {
  // The newest point is not whole yet.
  const a = (/** @type {number[]} */ values) => values.slice(0, values.length > 1 ? -1 : undefined).map((value) => value / data.step_s);
  const failed = perSecond(door.failed, data.step_s);
  const sub = [
    door.queues !== undefined && plural(door.queues, "queue"),
    door.workers !== undefined && plural(door.workers, "worker"),
    door.upstreams !== undefined && plural(door.upstreams, "upstream"),
    door.targets !== undefined && plural(door.targets, "target"),
  ].filter(Boolean).join(", ");
  return html`<tr>
    <th scope="row"><a class="thing" href=${link([...to])}>${name}</a><span class="sub">${sub}</span></th>
    <td class="plot"><${Chart} accepted=${a(door.accepted)} finished=${a(door.finished)} failed=${a(door.failed)}
      label=${`${name}: ${rate(perSecond(door.finished, data.step_s))} finished a second now, ${rate(failed)} failed`} />
      ${last && html`<${Axis} from=${data.from} step_s=${data.step_s} points=${Math.max(1, door.finished.length - 1)} />`}</td>
    <td class="n" data-l="Accepted/s">${rate(perSecond(door.accepted, data.step_s))}</td>
    <td class="n" data-l="Started/s">${rate(perSecond(door.started, data.step_s))}</td>
    <td class="n" data-l="Finished/s">${rate(perSecond(door.finished, data.step_s))}</td>
    <td class=${`n ${failed > 0.01 && failed > perSecond(door.finished, data.step_s) / 20 ? "hot" : ""}`} data-l="Failed/s">${rate(failed)}</td>
    <td class="n" data-l="Backlog">${count(door.backlog)}</td>
    <td class=${`n ${door.late ? "late" : ""}`} data-l="Oldest">${duration(door.oldest_ms)}</td>
    <td class="n" data-l="Wait">${door.wait_ms ? html`${duration(door.wait_ms.p50)}<span class="sub">${duration(door.wait_ms.p99)}</span>` : html`<span class="zero">none</span>`}</td>
    <td class="n" data-l="Attempt">${door.attempt_ms ? html`${duration(door.attempt_ms.p50)}<span class="sub">${duration(door.attempt_ms.p99)}</span>` : html`<span class="zero">none</span>`}</td>
  </tr>`;
}

/** @param {{ from: string, step_s: number, points: number }} props */
export function Axis({ from, step_s, points }) {
  const start = Date.parse(from);
  const days = step_s >= 3600;
  const text = (/** @type {number} */ part) => {
    const at = new Date(start + part * (points - 1) * step_s * 1000);
    const iso = at.toISOString();
    return days ? iso.slice(5, 10) : iso.slice(11, 16);
  };
  return html`<div class="axis" aria-hidden="true">${[0, 1 / 3, 2 / 3, 1].map((part) => html`<span key=${part}>${text(part)}</span>`)}</div>`;
}

/** @param {{ one: any, reload: () => Promise<void> }} props */
function Fact({ one, reload }) {
  const [colour, word] = KINDS[one.kind] || ["warn", one.kind];
  const to = one.what === "target" ? ["targets", one.name] : one.what === "worker" ? ["workers"] : ["queues", one.name];
  const right = one.what === "target" ? "targets:manage" : one.what === "worker" ? "workers:manage" : "queues:manage";
  const base = one.what === "target" ? `targets/${path(one.name)}` : one.what === "worker" ? `workers/${path(one.name)}` : `queues/${path(one.name)}`;
  const held = one.kind === "paused" || one.kind === "held" || one.kind === "paused_long";
  const does = held ? "resume" : "pause";
  const acts = one.what !== "instance" && may(right, one.name) && !(one.kind === "held" && one.what === "queue");
  return html`<li><span class=${`st ${colour}`}>${word}</span>
    <div>${one.what === "instance" ? html`<b>${one.name}</b>` : html`<a class="thing" href=${link(to)}><bdi>${one.name}</bdi></a>`} <span class="muted">${one.what}</span><p>${one.text}</p></div>
    ${one.since ? html`<${When} at=${one.since} since />` : html`<span></span>`}
    <div class="acts">
      ${acts && html`<button onClick=${async () => {
        try {
          await act("POST", `${base}/${does}`);
          toast("good", `${one.name} ${held ? "goes on" : "is paused"}`);
        } catch (error) {
          refusal(error);
        }
        reload().catch(() => {});
      }}>${held ? "Resume" : "Pause"}</button>`}
      ${one.what !== "instance" && !held && html`<a class="btn" href=${link(to)}>Open ${one.what}</a>`}
    </div></li>`;
}
