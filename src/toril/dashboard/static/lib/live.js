/** What keeps a page fresh: one stream of events where queues are shown, a look every few seconds where none are. */
import { signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { ApiError, address, follow } from "./api.js";
import { token } from "./session.js";

const LOOK_MS = 5000;
const AT_MOST_EVERY_MS = 1000;
const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 10_000;

/** Live updates are paused by the person. */
export const paused = signal(false);
/** Changes that were heard of while paused. */
export const waiting = signal(0);
/** "live", "broken" or "idle" (no page wants updates). */
export const state = signal("idle");
/** When the figures on the page were last right; 0 if none were read yet. */
export const freshAt = signal(0);
/** When the next try is made after a break. */
export const nextTryAt = signal(0);
/** How many things the page reads for the first time just now. */
export const reading = signal(0);
/** Raised to look at once. */
export const nudge = signal(0);

export function fresh() {
  freshAt.value = Date.now();
}

export function pause() {
  paused.value = true;
  waiting.value = 0;
}

export function resume() {
  paused.value = false;
  waiting.value = 0;
  nudge.value += 1;
}

/**
 * Call `reload` when something may have changed, for as long as the page stands.
 * @param {() => Promise<unknown>} reload
 * @param {{ queues?: string[], everyMs?: number }} [what]
 */
export function useLive(reload, what = {}) {
  const latest = useRef(reload);
  latest.current = reload;
  const queues = (what.queues || []).join(",");
  const everyMs = what.everyMs || LOOK_MS;
  useEffect(() => {
    const ending = new AbortController();
    let due = false;
    let busy = false;
    let lookedAt = Date.now();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;

    const look = async () => {
      if (busy) return;
      if (paused.value) {
        if (due) waiting.value += 1; // a look by the clock does not know of a change
        due = false;
        return;
      }
      busy = true;
      due = false;
      lookedAt = Date.now();
      try {
        await latest.current();
        fresh();
        if (!queues) state.value = "live";
      } catch (error) {
        if (!(error instanceof DOMException)) state.value = "broken";
      } finally {
        busy = false;
        if (due) soon();
      }
    };
    const soon = () => {
      due = true;
      if (timer !== undefined || busy) return;
      timer = setTimeout(() => {
        timer = undefined;
        look();
      }, Math.max(0, AT_MOST_EVERY_MS - (Date.now() - lookedAt)));
    };

    const ticking = setInterval(() => {
      if (!document.hidden && (!queues || state.value !== "live" || Date.now() - lookedAt > 6 * everyMs)) look();
    }, everyMs);
    const shown = () => {
      if (!document.hidden) look();
    };
    document.addEventListener("visibilitychange", shown);
    const unsubscribe = nudge.subscribe(() => {
      if (nudge.value > 0 && Date.now() - lookedAt > 50) look();
    });

    const refused = (/** @type {ApiError} */ error) => {
      if (![401, 403, 404].includes(error.status)) return false;
      state.value = "live"; // no right to listen: looking every few seconds must do
      return true;
    };
    if (queues) keepFollowing(() => address("events", { queues }), ending.signal, soon, { opened: soon, refused });
    else state.value = "live";

    return () => {
      ending.abort();
      clearInterval(ticking);
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", shown);
      unsubscribe();
      state.value = "idle";
    };
  }, [queues, everyMs, token.value]);
}

/**
 * Follow a stream, and again after a pause when it breaks off, until the signal says stop or it is refused for good.
 * @param {() => string} url
 * @param {AbortSignal} signal
 * @param {Parameters<typeof follow>[2]} heard
 * @param {{ opened: () => void, refused: (error: ApiError) => boolean }} told
 */
export async function keepFollowing(url, signal, heard, { opened, refused }) {
  let pauseMs = FIRST_PAUSE_MS;
  while (!signal.aborted) {
    try {
      await follow(url(), signal, heard, {
        opened: () => {
          state.value = "live";
          pauseMs = FIRST_PAUSE_MS;
          opened();
        },
      });
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && refused(error)) return;
    }
    state.value = "broken";
    nextTryAt.value = Date.now() + pauseMs;
    await sleep(pauseMs, signal);
    pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
  }
}

/** Resolve after so long, and at once when the next nudge comes or the signal says stop. @param {number} ms @param {AbortSignal} signal */
function sleep(ms, signal) {
  return new Promise((resolve) => {
    const before = nudge.value;
    const over = () => {
      clearTimeout(timer);
      unsubscribe();
      signal.removeEventListener("abort", over);
      resolve(undefined);
    };
    const timer = setTimeout(over, ms);
    const unsubscribe = nudge.subscribe((now) => { // also called at once, with the nudges of before
      if (now !== before) over();
    });
    signal.addEventListener("abort", over);
  });
}
