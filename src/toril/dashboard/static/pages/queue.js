/** One queue: its jobs by state, found by what is in them, and what can be done with it. */
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ApiError, act, address, follow, get, path } from "../lib/api.js";
import { useFetched, useFetchedAgain } from "../lib/fetching.js";
import { count, duration, plural } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { go, link, place, setQuery } from "../lib/router.js";
import { may } from "../lib/session.js";
import { JOB_STATES } from "../lib/states.js";
import { addJob } from "../parts/addjob.js";
import { Empty, Failed, Loading } from "../parts/blank.js";
import { FormDialog, ask, confirm } from "../parts/dialog.js";
import { Page } from "../parts/frame.js";
import { Icon } from "../parts/icons.js";
import { useRows } from "../parts/rows.js";
import { State } from "../parts/state.js";
import { refusal, toast } from "../parts/toasts.js";
import { When } from "../parts/when.js";
import { QueueFacts } from "../parts/queuefacts.js";

const LENGTH = 25;
/** So many jobs that were found are found again by who comes back. */
const MOST_FOUND = 500;
/** A page of jobs that is longer than this is read without what the jobs hold. */
const MOST_CHARACTERS = 4_000_000;
const WITHOUT_DATA = "id,name,opts,delay,priority,attemptsMade,timestamp,processedOn,finishedOn,failedReason";

/** @param {{ name: string }} props */
export function QueuePage({ name }) {
  const { query } = place.value;
  const state = query.get("state") || "";
  const { data, error, slow, reload, url } = useFetched(`queues/${path(name)}`);
  const first = useRef("");
  const stats = useFetched("stats", { queue: name, window: "1h" });
  const [version, setVersion] = useState(0);
  const connected = useFetchedAgain(may("workers:read", name) ? "connections" : null, { queue: name }, version);
  useLive(async () => {
    await reload();
    setVersion((n) => n + 1);
  }, { queues: may("events:read", name) ? [name] : [], everyMs: 5000 });
  const trail = [{ text: "Queues", to: link(["queues"]) }, name];
  if (!data) {
    return html`<${Page} title=${name} trail=${trail}><div class="head"><div><div class="title"><h1><bdi>${name}</bdi></h1></div></div>
      ${error?.status === 404 && may("jobs:add", name) && html`<div class="acts"><button onClick=${() => addJob({ queue: name }).then(() => reload())}>Add job</button></div>`}</div>
      ${error ? html`<${Failed} error=${error} what=${`queue ${name}`} right="queues:read" retry=${reload} />` : slow && html`<${Loading} what=${name} />`}<//>`;
  }
  const waits = data.counts.waiting + data.counts.paused;
  const backlog = waits + data.counts.prioritized;
  // Chosen once: the page must not change its state under the reader when a count changes.
  first.current ||= waits ? "waiting" : data.counts.active ? "active" : data.counts.failed ? "failed" : data.counts.completed ? "completed" : JOB_STATES.find((one) => data.counts[one]) || "waiting";
  const shown = state || first.current;
  const clients = data.workers.filter((/** @type {any} */ one) => !one.presence);
  const came = stats.data !== null && (connected.data !== null || connected.error !== null || connected.url === undefined);
  const workers = came ? clients.length + (stats.data.worker ? 1 : 0) + (connected.data?.sockets.length || 0) + (connected.data?.leases.length || 0) : null;
  const idle = backlog > 0 && !data.paused && workers === 0;
  return html`<${Page} title=${name} trail=${trail} curl=${url}>
    <div class="head">
      <div><div class="title"><h1><bdi>${name}</bdi></h1>${data.paused ? html`<${State} word="paused" />${data.pausedSince ? html`<span class="muted"><${When} at=${data.pausedSince} since /></span>` : ""}` : html`<${State} word="running" as="good" />`}${idle && html`<span class="st warn">No worker</span>`}</div>
        <p>${backlog ? `${plural(backlog, "job waits", "jobs wait")}${data.oldestWaitingAge === null ? "" : `, the oldest for ${duration(data.oldestWaitingAge)}`}.` : "Nothing waits."}${workers === null ? "" : ` ${plural(workers, "worker")} here.`}</p></div>
      <div class="acts">
        ${may("queues:manage", name) && html`<button onClick=${() => pause(name, data.paused, reload)}><${Icon} name=${data.paused ? "resume" : "pause"} />${data.paused ? "Resume" : "Pause"}</button>`}
        ${may("jobs:add", name) && html`<button onClick=${() => addJob({ queue: name }).then((added) => (added ? reload() : undefined))}>Add job</button>`}
      </div>
    </div>
    <nav class="tabs" aria-label="States">${JOB_STATES.map((one) => {
      const number = one === "waiting" ? waits : data.counts[one];
      return html`<a key=${one} href=${link(["queues", name], { state: one })} aria-current=${one === shown ? "true" : undefined}><b>${count(number)}</b>${one}</a>`;
    })}</nav>
    <div class="cols">
      <${Jobs} key=${`${shown} ${query.has("where")}`} queue=${name} state=${shown} total=${shown === "waiting" ? waits : data.counts[shown]} version=${version} changed=${reload} />
      <${QueueFacts} queue=${{ ...data, workers: clients }} connected=${connected.data} stats=${stats.data} ready=${stats.data !== null || stats.error !== null} changed=${reload} />
    </div>
  <//>`;
}

/** @param {string} name @param {boolean} paused @param {() => Promise<void>} reload */
async function pause(name, paused, reload) {
  try {
    await act("POST", `queues/${path(name)}/${paused ? "resume" : "pause"}`);
    toast("good", `${name} ${paused ? "goes on" : "is paused"}`);
  } catch (error) {
    refusal(error);
  }
  await reload().catch(() => {});
}

/** What stands in the last column, by state. @type {Record<string, [string, (job: any) => any]>} */
const TIMES = {
  waiting: ["Added", (job) => job.timestamp],
  active: ["Started", (job) => job.processedOn],
  delayed: ["Runs", (job) => job.timestamp + (job.delay || 0)],
  prioritized: ["Added", (job) => job.timestamp],
  "waiting-children": ["Added", (job) => job.timestamp],
  completed: ["Completed", (job) => job.finishedOn],
  failed: ["Failed", (job) => job.finishedOn],
};

/** @param {{ queue: string, state: string, total: number, version: number, changed: () => Promise<void> }} props */
function Jobs({ queue, state, total, version, changed }) {
  const { query } = place.value;
  const where = query.get("where") || "";
  const order = query.get("order") === "oldest" ? "oldest" : "newest";
  const start = Math.max(0, Number(query.get("start")) || 0);
  const found = where ? useSearch(queue, state, where, order) : usePage(queue, state, start, order, version);
  const [chosen, setChosen] = useState(/** @type {Set<string>} */ (new Set()));
  const [all, setAll] = useState(false);
  const last = useRef(-1);
  useEffect(() => {
    setChosen(new Set());
    setAll(false);
  }, [where, state, start, order]);
  const jobs = found.jobs;
  const acts = may("jobs:manage", queue);
  const select = (/** @type {number} */ n, /** @type {boolean} */ range) => {
    const next = new Set(chosen);
    const from = range && last.current >= 0 ? Math.min(last.current, n) : n;
    const to = range && last.current >= 0 ? Math.max(last.current, n) : n;
    const on = range || !next.has(jobs[n].id);
    for (let one = from; one <= to; one++) on ? next.add(jobs[one].id) : next.delete(jobs[one].id);
    last.current = n;
    setAll(false);
    setChosen(next);
  };
  const at = useRows({ count: jobs.length, open: (n) => go(link(["queues", queue, "jobs", jobs[n].id])), select: acts ? select : undefined });
  const [column, moment] = TIMES[state] || TIMES.waiting;
  return html`<div>
    <form class="query" role="search" onSubmit=${(/** @type {any} */ event) => {
      event.preventDefault();
      setQuery({ where: event.currentTarget.elements.where.value.trim(), start: undefined, found: undefined });
    }}>
      <input name="where" aria-label="Search" placeholder=${matchMedia("(max-width: 720px)").matches ? "data.customer.id = 42" : "data.customer.id = 42 and failedReason ~ timeout"} defaultValue=${where} key=${where} autocomplete="off" spellcheck="false"
        aria-invalid=${found.error?.code === "invalid_where" || found.error?.status === 400} />
      <select aria-label="Order" value=${order} onChange=${(/** @type {any} */ event) => setQuery({ order: event.currentTarget.value === "newest" ? undefined : "oldest", start: undefined, found: undefined })}>
        <option value="newest">Newest first</option><option value="oldest">Oldest first</option></select>
      <button type="submit">Search</button>
    </form>
    ${where && html`<${Scan} found=${found} state=${state} />`}
    ${(chosen.size > 0 || all) && html`<${Bulk} queue=${queue} state=${state} where=${where} ids=${[...chosen]} all=${all} matches=${found.matches}
      selectAll=${() => setAll(true)} clear=${() => { setChosen(new Set()); setAll(false); }} changed=${async () => { await changed().catch(() => {}); await found.reload(); }} />`}
    ${found.error && !jobs.length ? (found.error.status === 400 ? html`<p role="alert"><span class="st bad">Not understood</span> ${found.error.detail}</p>` : html`<${Failed} error=${found.error} what=${`jobs of ${queue}`} right="jobs:read" retry=${found.reload} />`)
      : jobs.length ? html`<table class="jobs">
        <thead><tr><th>${acts && html`<input type="checkbox" aria-label="Select this page" checked=${jobs.every((/** @type {any} */ job) => chosen.has(job.id))}
            onChange=${(/** @type {any} */ event) => { setAll(false); setChosen(event.currentTarget.checked ? new Set(jobs.map((/** @type {any} */ job) => job.id)) : new Set()); }} />`}</th>
          <th>Job</th><th>${state === "failed" ? "Reason" : state === "completed" ? "Result" : "Data"}</th><th class="n c3">Attempts</th><th class="n">${column}</th></tr></thead>
        <tbody>${jobs.map((/** @type {any} */ job, /** @type {number} */ n) => html`<tr key=${job.id} data-row=${n} aria-selected=${chosen.has(job.id) || all} class=${n === at ? "shows-focus" : ""}>
          <td>${acts && html`<input type="checkbox" aria-label=${`Select ${job.id}`} checked=${chosen.has(job.id) || all} onClick=${(/** @type {any} */ event) => select(n, event.shiftKey)} />`}</td>
          <td><a class="thing" href=${link(["queues", queue, "jobs", job.id])}><bdi>${job.id}</bdi></a><span class="name"><bdi>${job.name}</bdi></span></td>
          <td class="cut"><bdi>${summary(job, state)}</bdi></td>
          <td class="n c3">${job.attemptsMade} of ${Math.max(1, job.opts?.attempts || 1)}</td>
          <td class="n"><${When} at=${moment(job)} /></td></tr>`)}</tbody></table>`
      : found.loading ? html`<${Loading} what=${`jobs of ${queue}`} />`
      : found.ready && html`<${Empty} title=${where ? `No ${state} job matches${found.next ? " yet" : ""}` : `No ${state} jobs in ${queue}`}>
          ${where ? html`<p><code>${where}</code> was looked for in ${count(found.scanned)} of ${count(found.total)} jobs.</p><div class="acts">
            ${found.next && html`<button onClick=${found.more}>Scan further</button>`}<button class="quiet" onClick=${() => setQuery({ where: undefined, found: undefined })}>Clear search</button></div>` : ""}<//>`}
    ${!where && jobs.length > 0 && html`<div class="pages"><span>${count(start + 1)} to ${count(start + jobs.length)} of ${count(total)}</span><span class="grow"></span>
      <span class="only-wide"><kbd>J</kbd> <kbd>K</kbd> move <kbd>X</kbd> select <kbd>Enter</kbd> open</span>
      <button disabled=${start === 0} onClick=${() => setQuery({ start: Math.max(0, start - LENGTH) || undefined })}>Previous</button>
      <button disabled=${start + jobs.length >= total} onClick=${() => setQuery({ start: start + LENGTH })}>Next</button></div>`}
  </div>`;
}

/** What a row says of a job. @param {any} job @param {string} state */
function summary(job, state) {
  if (state === "failed") return String(job.failedReason ?? "").slice(0, 300);
  const what = state === "completed" ? "returnvalue" : "data";
  if (!(what in job)) return "Too large for a list";
  return String(JSON.stringify(job[what]) ?? "").slice(0, 300);
}

/** @param {string} queue @param {string} state @param {number} start @param {string} order @param {number} version */
function usePage(queue, state, start, order, version) {
  const [lean, setLean] = useState("");
  const which = `${state} ${start} ${order}`;
  const page = useFetchedAgain(`queues/${path(queue)}/jobs`, { statuses: state, start, length: LENGTH, order, fields: lean === which ? WITHOUT_DATA : undefined }, version, lean === which ? undefined : MOST_CHARACTERS);
  useEffect(() => {
    if (page.error?.code === "too_large") setLean(which);
  }, [page.error]);
  const jobs = page.data?.jobs || [];
  return { jobs, error: page.error?.code === "too_large" ? null : page.error, loading: page.slow, ready: page.data !== null, reload: () => page.reload().catch(() => {}), scanned: 0, total: 0, matches: 0, next: null, more: () => {}, stop: () => {}, busy: false };
}

/** @param {string} queue @param {string} state @param {string} where @param {string} order */
function useSearch(queue, state, where, order) {
  const blank = { jobs: /** @type {any[]} */ ([]), scanned: 0, total: 0, next: /** @type {string | null} */ (null), error: /** @type {ApiError | null} */ (null), busy: true, ready: false };
  const [found, setFound] = useState(blank);
  const ending = useRef(/** @type {AbortController | null} */ (null));
  const scan = useCallback(async (/** @type {string | null} */ cursor, /** @type {typeof blank} */ before, /** @type {number} */ wanted) => {
    ending.current?.abort();
    const mine = (ending.current = new AbortController());
    let now = { ...before, busy: true, error: null };
    setFound(now);
    try {
      do {
        const page = await get(`queues/${path(queue)}/search`, { where, states: state, order, cursor, budget_ms: 500 }, mine.signal);
        now = { jobs: [...now.jobs, ...page.jobs], scanned: now.scanned + page.scanned, total: page.total, next: page.next_cursor, error: null, busy: true, ready: true };
        cursor = page.next_cursor;
        setFound(now);
      } while (cursor && now.jobs.length < wanted);
      setFound({ ...now, busy: false });
    } catch (error) {
      setFound({ ...now, busy: false, ready: true, error: error instanceof ApiError ? error : null });
    }
  }, [queue, state, where, order]);
  // In the address, so that who comes back finds as many again.
  const wanted = Math.min(MOST_FOUND, Math.max(LENGTH, Number(place.value.query.get("found")) || 0));
  useEffect(() => {
    scan(null, blank, wanted);
    return () => ending.current?.abort();
  }, [scan]);
  return {
    ...found, matches: found.jobs.length, loading: found.busy && !found.jobs.length && !found.ready,
    reload: () => scan(null, blank, Math.max(LENGTH, found.jobs.length)),
    more: () => {
      setQuery({ found: Math.min(MOST_FOUND, found.jobs.length + LENGTH) }, { replace: true });
      return scan(found.next, found, found.jobs.length + LENGTH);
    },
    stop: () => ending.current?.abort(),
  };
}

/** @param {{ found: any, state: string }} props */
function Scan({ found, state }) {
  if (found.error) return null;
  return html`<div class="scan" role="status">
    <progress value=${found.scanned} max=${Math.max(1, found.total)} aria-label="Scanned"></progress>
    <span><b>${plural(found.matches, "matches", "match")}</b> in ${count(found.scanned)} of ${count(found.total)} ${state} jobs</span>
    ${found.busy ? html`<button class="quiet" onClick=${found.stop}>Cancel</button>` : found.next && html`<button class="quiet" onClick=${found.more}>Scan further</button>`}
  </div>`;
}

/** Which actions a state allows. @type {Record<string, string[]>} */
const ACTIONS = {
  failed: ["Retry", "Remove"], completed: ["Retry", "Remove"], delayed: ["Promote", "Move to delay", "Remove"],
  waiting: ["Remove"], prioritized: ["Remove"], "waiting-children": ["Remove"], active: [],
};
/** @type {Record<string, string>} */
const VERBS = { Retry: "retry", Remove: "remove", Promote: "promote", "Move to delay": "delay" };
/** @type {Record<string, string>} */
const DONE = { Retry: "retried", Remove: "removed", Promote: "promoted", "Move to delay": "moved" };
const MANY = 100_000;

/** @param {any} props */
function Bulk({ queue, state, where, ids, all, matches, selectAll, clear, changed }) {
  const [dry, setDry] = useState("");
  const actions = ACTIONS[state] || [];
  const body = (/** @type {string} */ action, /** @type {any} */ more) => ({ action: VERBS[action], ...(all ? { where, states: [state] } : { ids }), ...more });
  const said = (/** @type {any} */ answer, /** @type {string} */ action) =>
    `${count(answer.matched)} match, ${count(answer.done)} would be ${DONE[action]}, ${count(answer.refused)} refused`;

  const dryRun = async (/** @type {string} */ action, /** @type {any} */ more) => act("POST", `queues/${path(queue)}/bulk`, body(action, { ...more, dry_run: true }));
  const run = async (/** @type {string} */ action) => {
    let more = {};
    if (action === "Move to delay") {
      const delay_ms = await ask((close) => html`<${DelayDialog} close=${close} />`);
      if (delay_ms === null) return;
      more = { delay_ms };
    }
    try {
      const would = await dryRun(action, more);
      const sure = await confirm({
        title: `${action} ${plural(would.matched, "job")} of ${queue}?`,
        text: `Dry run: ${said(would, action)}.${action === "Remove" ? " This cannot be undone." : ""}`,
        danger: action === "Remove",
        type: would.matched >= MANY ? queue : undefined,
      });
      if (!sure) return;
      await work(action, more, would.matched);
    } catch (error) {
      refusal(error);
    }
    clear();
    await changed();
  };
  const work = async (/** @type {string} */ action, /** @type {any} */ more, /** @type {number} */ total) => {
    const ending = new AbortController();
    const id = toast("busy", `0 of ${count(total)} ${DONE[action]}`, { done: 0, total, cancel: () => ending.abort() });
    /** @type {any} */
    let last = { matched: total, done: 0, refused: 0, failed: [] };
    let over = false;
    try {
      await follow(address(`queues/${path(queue)}/bulk`), ending.signal, (event) => {
        if (event.event === "error") throw new ApiError(JSON.parse(event.data).status, JSON.parse(event.data).code, JSON.parse(event.data).detail);
        last = JSON.parse(event.data);
        over = event.event === "done";
        if (event.event === "progress") toast("busy", `${count(last.done)} of ${count(total)} ${DONE[action]}`, { id, done: last.done, total, cancel: () => ending.abort() });
      }, { method: "POST", body: body(action, more) });
      if (!over) throw new ApiError(0, "unreachable", `The connection broke after ${count(last.done)} of ${count(total)} jobs`);
    } catch (error) {
      if (!ending.signal.aborted) {
        toast("bad", /** @type {any} */ (error).detail || String(error), { id });
        return;
      }
    }
    const refused = last.refused;
    if (ending.signal.aborted) toast("warn", `Stopped: ${count(last.done)} of ${count(total)} ${DONE[action]}`, { id });
    else if (refused) toast("warn", `${count(last.done)} ${DONE[action]}, ${count(refused)} were in another state: ${last.failed.slice(0, 3).map((/** @type {any} */ one) => one.id).join(", ")}${refused > 3 ? " …" : ""}`, { id });
    else toast("good", `${plural(last.done, "job")} ${DONE[action]}`, { id });
  };
  return html`<div class="bulk" role="region" aria-label="Selected jobs">
    <p><b>${all ? `All ${where ? "that match" : `that are ${state}`}` : `${ids.length} selected`}.</b>
      ${!all && html` <button class="quiet" onClick=${selectAll}>Select all that match</button>`}
      ${dry && html` <span class="muted" role="status">Dry run: ${dry}</span>`}</p>
    ${actions.length > 0 && html`<button onClick=${() => dryRun(actions[0], {}).then((answer) => setDry(said(answer, actions[0])), refusal)}>Dry run</button>`}
    ${actions.map((action, n) => html`<button key=${action} class=${action === "Remove" ? "danger" : n === 0 ? "primary" : ""} onClick=${() => run(action)}>${action}</button>`)}
    <button class="quiet" onClick=${clear}>Cancel</button>
  </div>`;
}

/** @param {{ close: (ms: number | null) => void }} props */
export function DelayDialog({ close }) {
  const [text, setText] = useState("60");
  const seconds = Number(text);
  const ready = text.trim() !== "" && seconds >= 0 && Number.isFinite(seconds);
  return html`<${FormDialog} title="Move to delay" ready=${ready} submit=${() => Math.round(seconds * 1000)} close=${close}>
    <label>Seconds from now <input value=${text} inputmode="decimal" autofocus onInput=${(/** @type {any} */ event) => setText(event.currentTarget.value)} /></label>
  <//>`;
}
