/** Every call of the REST side as data: what to send, whether it may be sent again, how to read the answer. */

import { RetryIn, Unrecoverable } from "./errors.js";
import { withId, type Job, type NewJob, type State } from "./jobs.js";
import { fromJson } from "./json.js";
import { path, type Call } from "./server.js";

/** The longest that the server waits for a result in one call. */
export const LONGEST_WAIT_MS = 60_000;
const MARGIN_MS = 30_000;

/** How long a job that is settled later is held, where nothing else is said. */
export const LEASE_MS = 30_000;

/** A status from 300 to 599, or a class of them. */
export type Status = number | "3xx" | "4xx" | "5xx";

/** How answers that are no 2xx are taken. Without one, all are retried while attempts are left. */
export interface Policy {
  /** The statuses that are retried; all others fail the job at once. Without it, every status. */
  readonly retryOn?: readonly Status[];
  /** The statuses that fail the job at once. */
  readonly failOn?: readonly Status[];
  /** Honour the header `Retry-After`, as a floor under the job's backoff. */
  readonly retryAfter?: boolean;
  /** At most so long; without it, an hour. */
  readonly maxRetryAfterMs?: number;
}

/** A registered endpoint's own settings. */
export interface EndpointOptions {
  readonly method?: "POST" | "PUT" | "PATCH";
  /** Sent along with every job. */
  readonly headers?: Readonly<Record<string, string>>;
  /** How long the whole answer may take; the server's default is 3,000 ms. */
  readonly timeoutMs?: number;
  /** How many jobs at once. */
  readonly concurrency?: number;
  /** At most `max` jobs started in `duration` milliseconds, over all workers of the queue. */
  readonly limiter?: { readonly max: number; readonly duration: number };
  /** Sign the requests with one secret (`whsec_…`), or two while it is changed: see `pushHandler`. */
  readonly secrets?: readonly string[];
  /** Which of its answers are final. */
  readonly policy?: Policy;
  readonly maxStalledCount?: number;
  readonly removeOnComplete?: { readonly count?: number; readonly age?: number };
  readonly removeOnFail?: { readonly count?: number; readonly age?: number };
}

/** How many jobs are in each state, and some of them. */
export interface Page<Data, Result> {
  readonly counts: Readonly<Record<string, number>>;
  readonly jobs: Job<Data, Result>[];
}

/** The states that jobs can be searched in. */
export type SearchState = State | "paused" | "prioritized" | "waiting-children";

/** What can be done to many jobs. */
export type BulkAction = "retry" | "promote" | "remove" | "delay";

/** A result, or the state of a job that has none yet. */
export type Outcome<Result> =
  | { readonly done: true; readonly result: Result }
  | { readonly done: false; readonly state: string };

/** Add jobs, all or none. Safe to repeat unless a job has deduplication instead of an id. */
export function add<Data, Result>(queue: string, jobs: Iterable<NewJob<Data>>): Call<Job<Data, Result>[]> {
  const json = Array.from(jobs, withId);
  return {
    method: "POST",
    path: path("queues", queue, "jobs"),
    json,
    once: json.some((job) => job.opts.jobId === undefined),
    read: fromJson,
  };
}

/** One job. */
export function get<Data, Result>(queue: string, id: string): Call<Job<Data, Result>> {
  return { method: "GET", path: path("queues", queue, "jobs", id), read: fromJson };
}

/** Counts by state, and the newest jobs of each. */
export function page<Data, Result>(
  queue: string, states: readonly State[], start: number, length: number,
): Call<Page<Data, Result>> {
  const query = { statuses: states.join(), start: String(start), length: String(length) };
  return { method: "GET", path: path("queues", queue, "jobs"), query, read: fromJson };
}

/** A job's result, waited for by the server. */
export function result<Result>(queue: string, id: string, waitMs: number): Call<Outcome<Result>> {
  const wait = Math.min(Math.max(waitMs, 0), LONGEST_WAIT_MS);
  return {
    method: "GET",
    path: path("queues", queue, "jobs", id, "result"),
    query: { wait: (wait / 1000).toFixed(3) },
    timeoutMs: wait + MARGIN_MS,
    read: (body, status) =>
      status === 200
        ? { done: true, result: fromJson(body) }
        : { done: false, state: fromJson<{ state: string }>(body).state },
  };
}

/** A job's log lines. */
export function logs(queue: string, id: string, start: number, end: number): Call<string[]> {
  return {
    method: "GET",
    path: path("queues", queue, "jobs", id, "logs"),
    query: { start: String(start), end: String(end) },
    read: (body) => fromJson<{ logs: string[] }>(body).logs,
  };
}

/** Which jobs an action on many is for: `ids`, or all in `states` that match `where`; one of these two may be left out. */
export interface BulkOptions {
  readonly ids?: readonly string[];
  readonly states?: readonly SearchState[];
  readonly where?: string;
  /** How long from now, for `delay`. */
  readonly delayMs?: number;
  /** Only count them. */
  readonly dryRun?: boolean;
}

/** How many jobs matched, were changed (would be, in a dry run) and refused; the first 100 of these, with codes. */
export interface BulkResult {
  readonly matched: number;
  readonly done: number;
  readonly refused: number;
  readonly failed: readonly { readonly id: string; readonly code: string }[];
}

/** Which jobs to look at, and in which order. */
export interface Searching {
  readonly states?: readonly SearchState[];
  readonly order?: "newest" | "oldest";
}

/** Some of the jobs that a search has found, and the cursor to continue with; null at the end. */
export interface Found<Data, Result> {
  readonly jobs: Job<Data, Result>[];
  readonly next_cursor: string | null;
}

/** Jobs by what is in them, and the cursor to continue with. */
export function search<Data, Result>(
  queue: string, where: string, { states = [], order = "newest" }: Searching, cursor: string | null,
): Call<Found<Data, Result>> {
  const query = { where, order, ...(states.length > 0 && { states: states.join() }), ...(cursor !== null && { cursor }) };
  return { method: "GET", path: path("queues", queue, "search"), query, read: fromJson };
}

/** One action on many jobs. Not repeated: the second answer would count other jobs than the first. */
export function bulk(queue: string, action: BulkAction, options: BulkOptions): Call<BulkResult> {
  const { delayMs: delay_ms, dryRun: dry_run, ...rest } = options;
  const json = { action, ...rest, delay_ms, dry_run };
  return { method: "POST", path: path("queues", queue, "bulk"), json, once: true, timeoutMs: 600_000, read: fromJson };
}

/** Retry, promote, remove, pause or resume. What would find another state the second time is not repeated. */
export function action(method: "POST" | "DELETE", parts: readonly string[], once: boolean): Call<void> {
  return { method, path: path(...parts), ...(method === "POST" && { json: {} }), once, read: nothing };
}

/** Register an endpoint as a queue's worker. */
export function register(queue: string, url: string, options: EndpointOptions): Call<void> {
  const { method = "POST", headers, timeoutMs: timeout, secrets = [], policy: rules = {}, ...opts } = options;
  const { retryOn: retry_on, failOn: fail_on, retryAfter: retry_after, maxRetryAfterMs: max_retry_after_ms } = rules;
  const signing = secrets.length > 0 ? { secrets } : undefined;
  const policy = { retry_on, fail_on, retry_after, max_retry_after_ms, signing };
  const json = { queue, endpoint: { url, method, headers, timeout }, opts, policy };
  return { method: "POST", path: "/workers", json, read: nothing };
}

/** Remove a queue's registered worker. */
export function unregister(queue: string): Call<void> {
  return { method: "DELETE", path: path("workers", queue), once: true, read: nothing };
}

/** Every registered endpoint's URL, by queue. */
export function workers(): Call<Record<string, string>> {
  return { method: "GET", path: "/workers", read: fromJson };
}

/** Report progress, with the job's lock token. */
export function progress(queue: string, id: string, value: unknown): Call<void> {
  return { method: "POST", path: path("queues", queue, "jobs", id, "progress"), json: value ?? null, read: nothing };
}

/** Append a log line, with the job's lock token. Not repeated: the line could be there twice. */
export function log(queue: string, id: string, line: string): Call<void> {
  return { method: "POST", path: path("queues", queue, "jobs", id, "logs"), json: line, once: true, read: nothing };
}

/** Complete a job, with its lock token. */
export function complete(queue: string, id: string, value: unknown): Call<void> {
  return end(queue, id, "complete", { returnvalue: value ?? null });
}

/** Fail a job's attempt, with its lock token: an `Unrecoverable` and a `RetryIn` say how it goes on. */
export function fail(queue: string, id: string, why: unknown): Call<void> {
  return end(queue, id, "fail", {
    reason: why instanceof Error ? why.message || why.name : String(why),
    unrecoverable: why instanceof Unrecoverable ? true : undefined,
    retry_in_ms: why instanceof RetryIn ? wholeMs(why.ms) : undefined,
  });
}

/** Hold a job for longer, with its lock token. */
export function extend(queue: string, id: string, leaseMs: number): Call<void> {
  return end(queue, id, "extend", { lock_ms: wholeMs(leaseMs) });
}

/** Give a job back, with its lock token. */
export function release(queue: string, id: string): Call<void> {
  return end(queue, id, "release", {});
}

/** A time as the wire has it. */
export function wholeMs(ms: number): number {
  return Math.max(0, Math.round(ms));
}

/** Safe to repeat, as the second one finds the lock gone: what was done can be answered with `lease_lost`. */
function end(queue: string, id: string, action: string, json: object): Call<void> {
  return { method: "POST", path: path("queues", queue, "jobs", id, action), json, read: nothing };
}

function nothing(): void {}
