/** The colour and shape of each state; the word is BullMQ's, proxq's or the ledger's. */

/** @type {Record<string, string>} */
const KINDS = {
  waiting: "idle", delayed: "idle", prioritized: "idle", "waiting-children": "idle", queued: "idle", cancelled: "idle", off: "idle",
  active: "busy", running: "busy", dispatching: "busy",
  completed: "good", delivered: "good", closed: "good",
  paused: "warn", held: "warn", stalled: "warn", timeout: "warn", retrying: "warn", half_open: "warn", "half-open": "warn",
  failed: "bad", dead_lettered: "bad", open: "bad",
};

/** The states of jobs, in the order in which a job passes through them. */
export const JOB_STATES = ["waiting", "active", "delayed", "prioritized", "waiting-children", "completed", "failed"];

/** @param {string} state */
export function kind(state) {
  return KINDS[state] || "idle";
}
