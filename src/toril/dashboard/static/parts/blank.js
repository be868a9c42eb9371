/** What stands in the place of content: nothing yet, loading, an error, no right. */
import { html } from "../lib/html.js";
import { nudge } from "../lib/live.js";
import { refuse, who } from "../lib/session.js";
import { copy } from "./copy.js";

/** @param {{ what: string }} props */
export function Loading({ what }) {
  return html`<div class="box" aria-busy="true">
    <p class="muted">Loading ${what}</p>
    <div class="skel">${[0, 1, 2, 3, 4, 5].map((n) => html`<i key=${n}></i>`)}</div>
  </div>`;
}

/** @param {{ title: string, children?: any }} props */
export function Empty({ title, children }) {
  return html`<div class="box blank"><p class="what">${title}</p>${children}</div>`;
}

/** @type {Record<string, string>} */
const TITLES = {
  store_unavailable: "Redis cannot be reached",
  ledger_unavailable: "The ledger cannot be reached",
  unreachable: "toril cannot be reached",
};

/** @param {{ error: import("../lib/api.js").ApiError, what: string, right?: string, retry?: () => unknown }} props */
export function Failed({ error, what, right, retry }) {
  if (error.status === 403) return html`<${NoRight} what=${what} right=${right} />`;
  if (error.status === 404) return html`<${Empty} title=${what.startsWith("The ") ? `${what} are not here` : `There is no ${what}`}><p class="muted">${error.detail}</p><//>`;
  const details = `${error.status || "no answer"} ${error.code}${error.request ? `, request ${error.request}` : ""}`;
  return html`<div class="box blank" role="alert">
    <span class="st bad">${TITLES[error.code] || "That did not work"}</span>
    <p>${what[0].toUpperCase() + what.slice(1)} could not be read. ${error.detail}</p>
    <p class="mono muted">${details}</p>
    <div class="acts">
      <button onClick=${() => (retry ? Promise.resolve(retry()).catch(() => {}) : (nudge.value += 1))}>Try now</button>
      <button class="quiet" onClick=${() => copy(`${details}\n${error.detail}\n${location.href}`)}>Copy details</button>
    </div>
  </div>`;
}

/** @param {{ what: string, right?: string }} props */
export function NoRight({ what, right }) {
  return html`<div class="box blank">
    <span class="st idle">Not for this token</span>
    <p>The token <b>${who.value?.name}</b> may not see ${what.replace(/^The /, "the ")}.${right && html` It needs <code>${right}</code>.`}</p>
    <div class="acts"><button onClick=${() => refuse("Log in with a token that may see this page.")}>Log in</button></div>
  </div>`;
}
