/** Read something of the API for a page: what was there stays until the new is there. */
import { useCallback, useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { address, getText, parse } from "./api.js";
import { fresh, reading } from "./live.js";
import { token } from "./session.js";

/**
 * @template T
 * @typedef {{ data: T | null, error: import("./api.js").ApiError | null, slow: boolean, reload: () => Promise<void>, url: string | undefined }} Fetched
 */

/**
 * @param {string | null} route null reads nothing
 * @param {Record<string, unknown>} [query]
 * @param {number} [most] characters of an answer
 * @returns {Fetched<any>}
 */
export function useFetched(route, query = {}, most) {
  const key = route === null ? null : `${route}?${JSON.stringify(query)}`;
  const [state, setState] = useState(/** @type {{ key: string | null, text: string, data: any, error: any }} */ ({ key: null, text: "", data: null, error: null }));
  const [slow, setSlow] = useState(false);
  const newest = useRef(/** @type {AbortController | null} */ (null));

  const reload = useCallback(async () => {
    if (route === null) return;
    newest.current?.abort();
    const mine = (newest.current = new AbortController());
    try {
      const text = await getText(route, query, mine.signal, most);
      if (mine.signal.aborted) return;
      fresh();
      // What has not changed is neither read nor drawn again: it may be megabytes.
      setState((before) => (before.key === key && before.text === text && !before.error ? before : { key, text, data: parse(text || "null"), error: null }));
    } catch (error) {
      if (mine.signal.aborted) return;
      setState((before) => ({ key, text: before.key === key ? before.text : "", data: before.key === key ? before.data : null, error }));
      throw error;
    }
  }, [key, token.value]);

  // With the drawing, not after it: a page is never seen as ready before it has begun to read.
  useLayoutEffect(() => {
    setSlow(false);
    const timer = setTimeout(() => setSlow(true), 200);
    let first = route !== null;
    const over = () => {
      clearTimeout(timer);
      if (first) reading.value -= 1;
      first = false;
    };
    if (first) reading.value += 1;
    reload().catch(() => {}).finally(over);
    return () => {
      over();
      newest.current?.abort();
    };
  }, [reload]);

  const current = state.key === key;
  return { data: current ? state.data : null, error: current ? state.error : null, slow: slow && !(current && state.data), reload, url: route === null ? undefined : address(route, query) };
}

/**
 * As `useFetched`, and read again when a version changes; what was there stays until then.
 * @param {string | null} route
 * @param {Record<string, unknown>} query
 * @param {number} version
 * @param {number} [most] characters of an answer
 */
export function useFetchedAgain(route, query, version, most) {
  const fetched = useFetched(route, query, most);
  const first = useRef(true);
  useEffect(() => {
    if (first.current) first.current = false;
    else fetched.reload().catch(() => {});
  }, [version]);
  return fetched;
}
