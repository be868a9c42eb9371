/**
 * Puts an SDK that takes a `fetch` behind toril's async proxy (or proxq): a request becomes a job, its answer the
 * SDK's answer.
 *
 *     new OpenAI({ baseURL: "http://127.0.0.1:8080/v1", fetch: proxqFetch() })
 *
 * What is accepted (`202` and `X-Proxq-Source`) is waited for and comes back as the upstream answered it. Anything else
 * is the answer itself: streams, which are sent past the queue, and errors. When the caller gives up (its signal is
 * aborted), the job is cancelled.
 */

import { pauseMs, sleep } from "./pauses.js";

export interface ProxqOptions {
  /** Where the jobs API is; `/__jobs` on the host of each request by default. */
  readonly jobsUrl?: string;
  /** How long a job may take until it is cancelled; for ever by default, as SDKs have a timeout of their own. */
  readonly waitMs?: number;
  /**
   * Send what asks for a stream (`"stream": true` in a JSON body) past the queue, so that it comes piece by piece.
   * Otherwise it comes when it is whole. True by default but in browsers, which cannot send a body in pieces.
   */
  readonly directStreams?: boolean;
  /** What makes the requests. */
  readonly fetch?: typeof fetch;
}

const SOURCE = "x-proxq-source";
const LONG_POLL_MS = 25_000;
const TRIES = 5;

/** A `fetch` that waits for jobs. */
export function proxqFetch(options: ProxqOptions = {}): typeof fetch {
  const inner = options.fetch ?? ((input, init) => fetch(input, init));
  const direct = options.directStreams ?? !("document" in globalThis);
  return async (input, init) => {
    const request = input instanceof Request ? input : undefined;
    const answer = await inner(input, direct && streams(init) ? inPieces(init) : init);
    if (answer.status !== 202 || !answer.headers.has(SOURCE)) return answer;
    const { jobId } = (await answer.json()) as { jobId: string };
    const jobs = (options.jobsUrl ?? new URL("/__jobs", request?.url ?? String(input)).href).replace(/\/$/, "");
    const job = new WaitedJob(
      inner, `${jobs}/${encodeURIComponent(jobId)}`, credentials(init?.headers ?? request?.headers),
      init?.signal ?? request?.signal,
    );
    return job.answer(options.waitMs);
  };
}

interface Status {
  readonly status: "queued" | "running" | "completed" | "failed";
  readonly error?: string;
}

/** A job that a caller waits for. */
class WaitedJob {
  readonly #fetch: typeof fetch;
  readonly #url: string;
  readonly #headers: Headers;
  readonly #signal: AbortSignal | undefined;
  #ended = false;

  constructor(inner: typeof fetch, url: string, headers: Headers, signal: AbortSignal | null | undefined) {
    this.#fetch = inner;
    this.#url = url;
    this.#headers = headers;
    this.#signal = signal ?? undefined;
  }

  /** The upstream's answer; cancels the job if that cannot be had. */
  async answer(waitMs = Infinity): Promise<Response> {
    try {
      const status = await this.#finished(Date.now() + waitMs);
      if (status.status === "failed") throw new TypeError(`the job failed: ${status.error ?? "no reason is given"}`);
      return await this.#content();
    } catch (error) {
      if (!this.#ended) await this.#fetch(this.#url, { method: "DELETE", headers: this.#headers }).catch(() => {});
      throw error;
    }
  }

  async #finished(until: number): Promise<Status> {
    for (let failures = 0; ; ) {
      const leftMs = until - Date.now();
      if (leftMs <= 0) throw new DOMException("the job has not ended in time", "TimeoutError");
      const waitMs = Math.min(leftMs, LONG_POLL_MS);
      const askedAt = Date.now();
      const answer = await this.#get(`${this.#url}?wait=${(waitMs / 1000).toFixed(3)}`);
      if (answer !== undefined && answer.status >= 400 && answer.status < 500) {
        this.#ended = true;
        throw new TypeError(`the job ${answer.status === 404 ? "is gone" : `may not be asked for (${answer.status})`}`);
      }
      if (answer?.ok === true) {
        const status = (await answer.json()) as Status;
        if (status.status === "completed" || status.status === "failed") {
          this.#ended = true;
          return status;
        }
        if (Date.now() - askedAt > waitMs / 2) continue; // it did hold the question
      }
      await sleep(Math.min(pauseMs(failures++, 100, 1_000), Math.max(leftMs, 0)), this.#signal);
    }
  }

  async #content(): Promise<Response> {
    for (let tries = 1; ; tries++) {
      const answer = await this.#get(`${this.#url}/content`);
      if (answer !== undefined && !answer.headers.has(SOURCE)) return answer;
      if (answer?.status === 404 || tries === TRIES) throw new TypeError("the job's answer is not there any more");
      await sleep(pauseMs(tries, 100, 1_000), this.#signal);
    }
  }

  /** An answer; none when the server cannot be reached. Throws when the caller has given up. */
  async #get(url: string): Promise<Response | undefined> {
    try {
      return await this.#fetch(url, { headers: this.#headers, ...(this.#signal && { signal: this.#signal }) });
    } catch (error) {
      if (this.#signal?.aborted === true) throw error;
      return undefined;
    }
  }
}

/** What lets the submitter see the job. */
function credentials(headers: HeadersInit | undefined): Headers {
  const authorization = new Headers(headers).get("authorization");
  return new Headers(authorization === null ? {} : { authorization });
}

function streams(init: RequestInit | undefined): init is RequestInit & { body: string } {
  const body = init?.body;
  if (typeof body !== "string" || !body.includes('"stream"')) return false;
  try {
    return (JSON.parse(body) as { stream?: unknown }).stream === true;
  } catch {
    return false;
  }
}

/** The same request with a body of unknown length, which is not queued. */
function inPieces(init: RequestInit & { body: string }): RequestInit {
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(new TextEncoder().encode(init.body));
      controller.close();
    },
  });
  const headers = new Headers(init.headers);
  headers.delete("content-length");
  return { ...init, headers, body, duplex: "half" } as RequestInit;
}
