/**
 * A toril as seen from here: sends calls, again where that is safe, and turns every refusal into a `TorilError`.
 *
 * The one place that knows `fetch`.
 */

import { JobFailed, TorilError } from "./errors.js";
import { fromJson, toJson } from "./json.js";
import { pauseMs, sleep } from "./pauses.js";

const TRIES = 5;
const SHORTEST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2_000;
/** A server, or a proxy before it, that is away for a moment. */
const PASSING = new Set([502, 503, 504]);

/** One request as data. */
export interface Call<T> {
  readonly method: "GET" | "POST" | "PUT" | "DELETE";
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly json?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  /** Sent a second time it would do something a second time, so it is not. */
  readonly once?: boolean;
  /** How long one try may take. */
  readonly timeoutMs?: number;
  /** Reads the body of an answer below 400. */
  readonly read: (body: string, status: number) => T;
}

/** How long the caller is willing to wait. */
export interface Patience {
  /** Tries go on for at least so long while the server cannot be reached. */
  readonly ms?: number;
  readonly signal?: AbortSignal | undefined;
}

/** Where a toril is, and who is calling. */
export class Server {
  readonly token: string;
  readonly #url: string;

  constructor(url: string, token: string) {
    this.#url = url.replace(/\/+$/, "");
    this.token = token;
  }

  /** The address of a WebSocket. */
  socketUrl(path: string): string {
    return this.#url.replace(/^http/, "ws") + path;
  }

  /**
   * Send a call and read its answer. While the server is away it is sent again, a few times, unless that is not safe.
   *
   * @throws TorilError with the server's code, or `unreachable`; the signal's reason when that is aborted.
   */
  async call<T>(call: Call<T>, patience: Patience = {}): Promise<T> {
    const began = Date.now();
    for (let tried = 1; ; tried += 1) {
      try {
        return await this.#try(call, patience.signal);
      } catch (error) {
        const impatient = tried >= TRIES && Date.now() - began >= (patience.ms ?? 0);
        if (!isPassing(error) || call.once === true || impatient) throw error;
      }
      await sleep(pauseMs(tried - 1, SHORTEST_PAUSE_MS, LONGEST_PAUSE_MS), patience.signal);
    }
  }

  /**
   * Open a response that goes on until `connection` is aborted.
   *
   * @throws TorilError as `call` does; nothing is tried again.
   */
  async stream(
    path: string, headers: Readonly<Record<string, string>>, connection: AbortSignal, signal?: AbortSignal,
  ): Promise<Response> {
    const response = await this.#fetch(path, { headers, signal: connection }, signal);
    if (response.status >= 400) throw refusal(response, await text(response, signal));
    return response;
  }

  async #try<T>(call: Call<T>, signal: AbortSignal | undefined): Promise<T> {
    const limit = new Limit(call.timeoutMs ?? 30_000, signal);
    try {
      return await this.#answer(call, limit.signal, signal);
    } finally {
      limit.end();
    }
  }

  async #answer<T>(call: Call<T>, limit: AbortSignal, signal: AbortSignal | undefined): Promise<T> {
    const query = call.query === undefined ? "" : `?${new URLSearchParams(call.query).toString()}`;
    const response = await this.#fetch(call.path + query, {
      method: call.method,
      signal: limit,
      ...(call.json === undefined
        ? {}
        : { headers: { ...call.headers, "content-type": "application/json" }, body: toJson(call.json) }),
    }, signal);
    const body = await text(response, signal);
    if (response.status >= 400) throw refusal(response, body);
    try {
      return call.read(body, response.status);
    } catch (cause) {
      throw new TorilError(`what answered is no toril: ${String(cause)}`, "bad_answer", response.status, { cause });
    }
  }

  #fetch(path: string, init: RequestInit, signal: AbortSignal | undefined): Promise<Response> {
    const headers = { ...init.headers, authorization: `Bearer ${this.token}` };
    return reaching(fetch(this.#url + path, { ...init, headers }), signal);
  }
}

/**
 * A time limit on a call that a caller's signal can end earlier.
 *
 * Unlike that of `AbortSignal.timeout`, its timer keeps a process of Node alive: should `fetch` lose a request when a
 * server goes away, the process would end with code 13 in the middle of the call.
 */
class Limit {
  readonly signal: AbortSignal;
  readonly end: () => void;

  constructor(ms: number, earlier: AbortSignal | undefined) {
    const limit = new AbortController();
    const stop = (): void => limit.abort(earlier?.reason);
    const timer = setTimeout(() => limit.abort(new DOMException("no answer in time", "TimeoutError")), ms);
    if (earlier?.aborted === true) stop();
    earlier?.addEventListener("abort", stop);
    this.signal = limit.signal;
    this.end = () => {
      clearTimeout(timer);
      earlier?.removeEventListener("abort", stop);
    };
  }
}

/** Whether it may be otherwise in a moment. */
export function isPassing(error: unknown): boolean {
  return error instanceof TorilError && (error.code === "unreachable" || PASSING.has(error.status));
}

/** A path of parts that may hold anything. */
export function path(...parts: readonly string[]): string {
  return `/${parts.map(encodeURIComponent).join("/")}`;
}

/** What `fetch` or the reading of a body throws, as a `TorilError`; but an abort as it is. */
export async function reaching<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    signal?.throwIfAborted();
    throw new TorilError(`toril cannot be reached: ${reason(cause)}`, "unreachable", 0, { cause });
  }
}

function text(response: Response, signal: AbortSignal | undefined): Promise<string> {
  return reaching(response.text(), signal);
}

/** Node says "fetch failed", and in the cause what happened. */
function reason(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause;
  if (!(cause instanceof Error)) return error.message;
  return cause.message || (cause as { code?: string }).code || error.message;
}

interface Problem {
  readonly code: string;
  readonly title: string;
  readonly detail?: string;
}

function refusal(response: Response, body: string): TorilError {
  if (response.headers.get("content-type")?.startsWith("application/problem+json") === true) {
    const problem = fromJson<Problem>(body);
    const kind = problem.code === "job_failed" ? JobFailed : TorilError;
    return new kind(problem.detail ?? problem.title, problem.code, response.status);
  }
  const code = response.headers.get("toril-code") ?? `http_${response.status}`;
  return new TorilError(body || response.statusText || code, code, response.status);
}
