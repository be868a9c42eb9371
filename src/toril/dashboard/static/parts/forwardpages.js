/** Pages of a list that only goes forward: the cursors of the pages before stand in the address, so that one can go back. */
import { html } from "../lib/html.js";
import { place, setQuery } from "../lib/router.js";

/** No character of a cursor. */
const BETWEEN = ".";
/** As much of the way back is kept in an address. */
const MOST_CHARACTERS = 4000;

/** Where the address is in such a list. @returns {{ cursors: string[], cursor: string | undefined, number: number }} `number`: of the page, from 1 */
export function pageOfAddress() {
  const { query } = place.value;
  const cursors = (query.get("after") || "").split(BETWEEN).filter(Boolean);
  return { cursors, cursor: cursors[cursors.length - 1], number: cursors.length ? Math.max(2, Number(query.get("page")) || 0) : 1 };
}

/** The parameters that lead back to the first page, for links and filters. */
export const FIRST_PAGE = { after: undefined, page: undefined };

/** @param {string[]} cursors @param {number} number */
function turn(cursors, number) {
  let kept = cursors;
  while (kept.length > 1 && kept.join(BETWEEN).length > MOST_CHARACTERS) kept = kept.slice(1);
  setQuery({ after: kept.join(BETWEEN), page: number > 1 ? number : undefined });
}

/** @param {{ next: string | null, first?: string, children?: any }} props `first`: what the first page is called */
export function ForwardPages({ next, first, children }) {
  const { cursors, number } = pageOfAddress();
  // One cursor leads to page 2; where fewer are kept, the way back ends before the first page.
  const isBack = cursors.length > 1 || number === 2;
  return html`<div class="pages">${children}
    ${first && html`<button disabled=${number === 1} onClick=${() => turn([], 1)}>${first}</button>`}
    <button disabled=${number === 1 || !isBack} onClick=${() => turn(cursors.slice(0, -1), number - 1)}>Previous</button>
    <button disabled=${!next} onClick=${() => next && turn([...cursors, next], number + 1)}>Next</button></div>`;
}
