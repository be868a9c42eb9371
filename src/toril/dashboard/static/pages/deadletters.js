/** Dead letters: what was given up, by target, reason, error, label and time; replayed or purged. */
import { useEffect, useState } from "preact/hooks";
import { ApiError, act, path } from "../lib/api.js";
import { useFetched } from "../lib/fetching.js";
import { count, plural } from "../lib/format.js";
import { html } from "../lib/html.js";
import { useLive } from "../lib/live.js";
import { go, link, place, setQuery } from "../lib/router.js";
import { may } from "../lib/session.js";
import { Empty, Failed, Loading } from "../parts/blank.js";
import { Labels } from "../parts/deliveries.js";
import { confirm } from "../parts/dialog.js";
import { FIRST_PAGE, ForwardPages, pageOfAddress } from "../parts/forwardpages.js";
import { Page } from "../parts/frame.js";
import { useRows } from "../parts/rows.js";
import { refusal, toast } from "../parts/toasts.js";
import { When } from "../parts/when.js";

/** From so many on, the name of the target is asked for. */
const MANY = 100_000;
const PERIODS = [["", "Any time"], ["1", "Last 24 hours"], ["7", "Last 7 days"], ["30", "Last 30 days"]];

const REASONS = [["", "Any reason"], ["attempts", "attempts"], ["refused", "refused"], ["deadline", "deadline"]];

/**
 * What the search field asks for: words with `=` are labels, the others are looked for in the last error.
 * @param {string} text
 * @returns {{ labels: Record<string, string>, error_contains: string }}
 */
export function readFilter(text) {
  /** @type {Record<string, string>} */
  const labels = {};
  const words = [];
  for (const part of text.split(/\s+/).filter(Boolean)) {
    const at = part.indexOf("=");
    if (at > 0) labels[part.slice(0, at)] = part.slice(at + 1);
    else words.push(part);
  }
  return { labels, error_contains: words.join(" ") };
}

export function DeadLettersPage() {
  const { query } = place.value;
  const target = query.get("target") || "";
  const days = query.get("days") || "";
  const text = query.get("labels") || "";
  const reason = query.get("reason") || "";
  const { labels, error_contains } = readFilter(text);
  const [since] = useState(() => Date.now());
  const sinceText = days ? new Date(since - Number(days) * 86_400_000).toISOString() : undefined;
  const byLabel = Object.fromEntries(Object.entries(labels).map(([name, value]) => [`label.${name}`, value]));
  const targets = useFetched(may("targets:read") ? "targets" : null);
  const route = target ? `targets/${path(target)}/dead-letters` : "jobs";
  const page = useFetched(route, { ...(target ? {} : { status: "dead_lettered" }), since: sinceText, reason, error_contains, ...byLabel, limit: 50, cursor: pageOfAddress().cursor });
  useLive(async () => {
    await page.reload();
    await targets.reload().catch(() => {});
  }, { everyMs: 5000 });
  const names = (targets.data?.targets || []).map((/** @type {any} */ one) => one.name);
  const total = (targets.data?.targets || []).filter((/** @type {any} */ one) => !target || one.name === target).reduce((/** @type {number} */ sum, /** @type {any} */ one) => sum + one.dead_letters, 0);
  return html`<${Page} title="Dead letters" trail=${["Dead letters"]} curl=${page.url}>
    <div class="head"><div><div class="title"><h1>Dead letters</h1></div>${targets.data && html`<p>${plural(total, "delivery was", "deliveries were")} given up${target ? ` for ${target}` : ""} and kept for a person.</p>`}</div></div>
    <form class="query" role="search" onSubmit=${(/** @type {any} */ event) => {
      event.preventDefault();
      setQuery({ labels: event.currentTarget.elements.labels.value.trim(), ...FIRST_PAGE });
    }}>
      <input name="labels" aria-label="Search" placeholder="tenant=t1, or a part of the error" defaultValue=${text} key=${text} autocomplete="off" />
      <select aria-label="Target" value=${target} onChange=${(/** @type {any} */ event) => setQuery({ target: event.currentTarget.value, ...FIRST_PAGE })}><option value="">All targets</option>${[...new Set([...names, ...(target ? [target] : [])])].map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select>
      <select aria-label="Reason" value=${reason} onChange=${(/** @type {any} */ event) => setQuery({ reason: event.currentTarget.value, ...FIRST_PAGE })}>${[...REASONS, ...(reason && !REASONS.some(([value]) => value === reason) ? [[reason, reason]] : [])].map(([value, word]) => html`<option key=${value} value=${value}>${word}</option>`)}</select>
      <select aria-label="Dead-lettered" value=${days} onChange=${(/** @type {any} */ event) => setQuery({ days: event.currentTarget.value, ...FIRST_PAGE })}>${PERIODS.map(([value, text]) => html`<option key=${value} value=${value}>${text}</option>`)}</select>
      <button type="submit">Search</button>
    </form>
    ${page.data ? html`<${List} jobs=${page.data.jobs} target=${target} filter=${{ ...(Object.keys(labels).length ? { labels } : {}), ...(sinceText ? { since: sinceText } : {}), ...(reason ? { reason } : {}), ...(error_contains ? { error_contains } : {}) }} next=${page.data.next_cursor} reload=${async () => { await Promise.allSettled([page.reload(), targets.reload()]); }} />`
      : page.error ? html`<${Failed} error=${page.error} what="The dead letters" right="deliveries:read" retry=${page.reload} />` : page.slow && html`<${Loading} what="dead letters" />`}
  <//>`;
}

/** @param {any} props */
function List({ jobs, target, filter, next, reload }) {
  const filtered = Object.keys(filter).length > 0;
  const [chosen, setChosen] = useState(/** @type {Set<string>} */ (new Set()));
  const [all, setAll] = useState(false);
  const [dry, setDry] = useState("");
  useEffect(() => {
    setChosen(new Set());
    setAll(false);
    setDry("");
  }, [target, JSON.stringify(filter)]);
  const select = (/** @type {number} */ n) => {
    const after = new Set(chosen);
    if (!after.delete(jobs[n].job_id)) after.add(jobs[n].job_id);
    setAll(false);
    setDry("");
    setChosen(after);
  };
  const at = useRows({ count: jobs.length, open: (n) => go(link(["deliveries", jobs[n].job_id])), select });
  const { number } = pageOfAddress();
  if (!jobs.length && number > 1) return html`<${Empty} title="No more dead letters" /><${ForwardPages} next=${null} first="Newest" />`;
  if (!jobs.length) return html`<${Empty} title="No dead letters"><p class="muted">Nothing was given up${target || filtered ? " that matches" : ""}.</p><//>`;
  const picked = jobs.filter((/** @type {any} */ job) => chosen.has(job.job_id));
  const byTarget = /** @type {Record<string, string[]>} */ ({});
  for (const job of picked) (byTarget[job.target] ||= []).push(job.job_id);
  /** The calls that an action takes: one for each target. @returns {[string, any][]} */
  const asks = () => all ? [[target, filtered ? filter : { all: true }]] : Object.entries(byTarget).map(([name, job_ids]) => [name, { job_ids }]);
  const replay = async (/** @type {boolean} */ dry_run) => {
    let matched = 0;
    let replayed = 0;
    for (const [name, body] of asks()) {
      const answer = await act("POST", `targets/${path(name)}/dead-letters/replay`, { ...body, dry_run });
      matched += answer.matched;
      replayed += answer.replayed;
    }
    return { matched, replayed };
  };
  const over = async () => {
    setChosen(new Set());
    setAll(false);
    await reload();
  };
  const run = async () => {
    try {
      const would = await replay(true);
      let did = { matched: 0, replayed: 0 };
      const sure = await confirm({
        title: `Replay ${plural(would.matched, "dead letter")}?`, text: "They get a fresh budget of attempts. Job ids and history stay.", type: would.matched >= MANY ? target : undefined,
        act: async () => { did = await replay(false); },
      });
      if (!sure) return;
      toast(did.replayed < did.matched ? "warn" : "good", `${count(did.replayed)} of ${count(did.matched)} replayed`);
    } catch (error) {
      refusal(error);
    }
    await over();
  };
  const purge = async () => {
    if (!(await confirm({ title: `Purge ${plural(picked.length, "dead letter")}?`, text: "They and their history are gone for good. This cannot be undone.", danger: true }))) return;
    let done = 0;
    const gone = [];
    for (const job of picked) {
      try {
        await act("DELETE", `targets/${path(job.target)}/dead-letters/${path(job.job_id)}`);
        done += 1;
      } catch (error) {
        if (!(error instanceof ApiError && (error.status === 404 || error.status === 409))) {
          refusal(error);
          return over();
        }
        gone.push(job.job_id);
      }
    }
    if (gone.length) toast("warn", `${plural(done, "dead letter")} purged; ${count(gone.length)} were gone already: ${gone.slice(0, 3).join(", ")}${gone.length > 3 ? " …" : ""}`);
    else toast("good", `${plural(done, "dead letter")} purged`);
    await over();
  };
  const manages = jobs.some((/** @type {any} */ job) => may("deliveries:manage", job.target));
  return html`
    ${manages && (chosen.size > 0 || all) && html`<div class="bulk" role="region" aria-label="Selected dead letters">
      <p><b>${all ? "All that match" : `${chosen.size} selected`}.</b> ${!all && target && html`<button class="quiet" onClick=${() => { setAll(true); setDry(""); }}>Select all that match</button>`}
        ${dry && html` <span class="muted" role="status">Dry run: ${dry}</span>`}</p>
      <button onClick=${() => replay(true).then((answer) => setDry(`${count(answer.matched)} match, ${count(answer.matched)} would be replayed`), refusal)}>Dry run</button>
      <button class="primary" onClick=${run}>Replay</button>${!all && html`<button class="danger" onClick=${purge}>Purge</button>`}
      <button class="quiet" onClick=${() => { setChosen(new Set()); setAll(false); }}>Cancel</button></div>`}
    <table class="jobs"><thead><tr><th>${manages && html`<input type="checkbox" aria-label="Select this page" checked=${jobs.every((/** @type {any} */ job) => chosen.has(job.job_id))} onChange=${(/** @type {any} */ event) => setChosen(event.currentTarget.checked ? new Set(jobs.map((/** @type {any} */ job) => job.job_id)) : new Set())} />`}</th>
      <th>Delivery</th><th>Last error</th><th class="c2">Labels</th><th class="c3">Reason</th><th class="n c3">Attempts</th><th class="n">Dead-lettered</th></tr></thead>
    <tbody>${jobs.map((/** @type {any} */ job, /** @type {number} */ n) => html`<tr key=${job.job_id} data-row=${n} aria-selected=${chosen.has(job.job_id) || all} class=${n === at ? "shows-focus" : ""}>
      <td>${manages && html`<input type="checkbox" aria-label=${`Select ${job.job_id}`} checked=${chosen.has(job.job_id) || all} onClick=${() => select(n)} />`}</td>
      <td><a class="thing" href=${link(["deliveries", job.job_id])}>${job.job_id}</a><a class="name" href=${link(["targets", job.target])}>${job.target}</a></td>
      <td class="cut" title=${job.last_error || ""}><bdi>${job.last_error || ""}</bdi></td><td class="c2"><${Labels} labels=${job.labels} /></td><td class="c3">${job.reason}</td>
      <td class="n c3">${job.attempts_made}</td><td class="n"><${When} at=${job.updated_at} /></td></tr>`)}</tbody></table>
    <${ForwardPages} next=${next} first="Newest"><span class="grow"></span><span class="only-wide"><kbd>J</kbd> <kbd>K</kbd> move <kbd>X</kbd> select <kbd>Enter</kbd> open</span><//>`;
}
