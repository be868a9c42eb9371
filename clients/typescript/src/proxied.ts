/** The jobs of toril's async proxy, by hand: submit a request, wait, fetch the upstream's answer, cancel. */

import { TorilError } from "./errors.js";
import { fromJson } from "./json.js";
import { path, reaching } from "./server.js";

/** A proxied request: `completed` says that the upstream answered, with any status; `error` why one has `failed`. */
export interface ProxiedJob {
  readonly id: string;
  readonly status: "queued" | "running" | "completed" | "failed";
  readonly error?: string;
}

/** How to reach it. */
export interface ProxyClientOptions {
  /** Sent with every request: what the upstream asks for; also to see one's jobs where toril has `ownerOnly`. */
  readonly headers?: Readonly<Record<string, string>>;
  /** toril's `jobsPath`; without it, `/__jobs`. */
  readonly jobsPath?: string;
}

const SOURCE = "x-proxq-source";
const LONGEST_WAIT_S = 60;

/** The request went past the queue; `response` is the upstream's answer. */
export class NotQueued extends TorilError {
  readonly response: Response;

  constructor(response: Response) {
    super("the request went past the queue", "not_queued", response.status);
    this.response = response;
  }
}

/** A caller of upstreams through their queues. `proxqFetch` does the same behind a `fetch` that waits for each answer. */
export class ProxyClient {
  readonly #url: string;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #jobs: string;

  /** @param url where toril is, without the prefix of an upstream */
  constructor(url: string, { headers = {}, jobsPath = "/__jobs" }: ProxyClientOptions = {}) {
    this.#url = url.replace(/\/+$/, "");
    this.#headers = headers;
    this.#jobs = jobsPath.replace(/\/+$/, "");
  }

  /**
   * Send a request into its queue; its job's id. It is sent once: a second one would be a second job.
   *
   * @throws NotQueued when toril passed it through; the error has the answer
   * @throws TorilError when toril refused it, or cannot be reached (`unreachable`)
   */
  async submit(target: string, init: RequestInit = {}): Promise<string> {
    const response = await this.#send(target, init);
    if (!response.headers.has(SOURCE)) throw new NotQueued(response);
    if (response.status !== 202) throw await refusal(response);
    return fromJson<{ jobId: string }>(await response.text()).jobId;
  }

  /**
   * A job's status.
   *
   * @throws TorilError with the status 404, where there is no such job
   */
  get(id: string): Promise<ProxiedJob> {
    return this.#status(id, 0);
  }

  /**
   * A job as soon as it has ended.
   *
   * @throws TorilError `timeout`, when it takes longer than `waitMs`; without it, 30,000
   */
  async wait(id: string, { waitMs = 30_000 }: { readonly waitMs?: number } = {}): Promise<ProxiedJob> {
    const until = Date.now() + waitMs;
    for (;;) {
      const job = await this.#status(id, Math.min(Math.ceil(Math.max(until - Date.now(), 0) / 1000), LONGEST_WAIT_S));
      if (job.status === "completed" || job.status === "failed") return job;
      if (Date.now() >= until) throw new TorilError(`proxied job ${id} is ${job.status} after ${waitMs} ms`, "timeout", 200);
    }
  }

  /**
   * The upstream's answer, whatever its status.
   *
   * @throws TorilError with the status 404, until there is one
   */
  async response(id: string): Promise<Response> {
    const response = await this.#send(`${this.#jobs}${path(id)}/content`);
    if (response.headers.has(SOURCE)) throw await refusal(response);
    return response;
  }

  /** Cancel a job in any state and forget it; a running attempt is aborted. */
  async cancel(id: string): Promise<void> {
    const response = await this.#send(this.#jobs + path(id), { method: "DELETE" });
    if (!response.ok) throw await refusal(response);
    await response.text();
  }

  async #status(id: string, waitS: number): Promise<ProxiedJob> {
    const response = await this.#send(`${this.#jobs}${path(id)}?wait=${waitS}`);
    if (!response.ok) throw await refusal(response);
    return fromJson(await response.text());
  }

  #send(target: string, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(this.#headers);
    new Headers(init.headers).forEach((value, name) => headers.set(name, value));
    return reaching(fetch(this.#url + target, { redirect: "manual", ...init, headers }), init.signal ?? undefined);
  }
}

async function refusal(response: Response): Promise<TorilError> {
  const text = await response.text();
  try {
    const { code, message } = fromJson<{ code: string; message: string }>(text);
    return new TorilError(message, code.toLowerCase(), response.status);
  } catch {
    return new TorilError(text, `http_${response.status}`, response.status);
  }
}
