/** For web handlers that toril pushes jobs to: verify and read the request, report, answer now or settle later. */

import * as calls from "./calls.js";
import { LEASE_MS, wholeMs } from "./calls.js";
import { RetryIn, TorilError, Unrecoverable } from "./errors.js";
import type { Job } from "./jobs.js";
import { fromJson, toJson } from "./json.js";
import { Server } from "./server.js";
import { readSecrets, verify } from "./signing.js";
import type { Payload } from "./task.js";

/** How a handler knows toril. */
export interface PushOptions {
  /**
   * The secrets (`whsec_…`) that the worker was registered with, any of which will do: only requests that toril signed
   * with one of them within the last five minutes are taken. Without it all are.
   */
  readonly secrets?: readonly string[];
  /** The largest request that is read; a larger one is refused with 413. Without it, 16 MiB. */
  readonly maxBodyBytes?: number;
}

/** A function that works on pushed jobs: what it returns completes the job, but `Later` keeps it. */
export type Work<Data = unknown, Result = unknown> =
  (pushed: PushedJob<Data, Result>) => Result | Later | Promise<Result | Later>;

/** toril takes jobs of up to 10 MiB by default; the rest is room for what it sends with a job. */
export const MAX_BODY_BYTES = 16 * 1024 * 1024;

/**
 * What a handler returns to keep its job: whoever has the pushed job settles it within `leaseMs` (1 s to 24 h; without
 * it, 30 s), or extends. Settling may come before the answer does. What is not settled in time is pushed again.
 */
export class Later {
  readonly leaseMs: number;

  constructor(leaseMs = LEASE_MS) {
    this.leaseMs = leaseMs;
  }
}

/** A job that came in a request. Its lock token opens it until it is settled. */
export class PushedJob<Data = unknown, Result = unknown> {
  readonly job: Job<Data>;
  readonly token: string;
  readonly queue: string;
  readonly #server: Server;

  private constructor({ job, token }: Payload<Data>, url: string) {
    this.job = job;
    this.token = token;
    this.queue = job.queueQualifiedName.slice(job.queueQualifiedName.lastIndexOf(":") + 1);
    this.#server = new Server(url, token);
  }

  /**
   * Read a request.
   *
   * @param url where toril is, for reports; not read from the request, which any caller may have sent
   * @throws TorilError `invalid_request`, when it holds no pushed job; answer with its status, 400
   * @throws TorilError `unauthorized`, when there are secrets and toril did not sign it; answer with its status, 401
   * @throws TorilError `payload_too_large`, when it has more than `maxBodyBytes`; answer with its status, 413
   * @throws TorilError `body_used`, when something has read the body before, so that it cannot be verified (500)
   * @throws RangeError when a secret is none, or the list is empty
   */
  static async from<Data = unknown, Result = unknown>(
    request: Request, url: string, { secrets, maxBodyBytes = MAX_BODY_BYTES }: PushOptions = {},
  ): Promise<PushedJob<Data, Result>> {
    const body = await bodyOf(request, maxBodyBytes);
    if (secrets) await verify(body, request.headers, secrets);
    let pushed: unknown;
    try {
      pushed = fromJson(new TextDecoder().decode(body));
    } catch (cause) {
      throw new TorilError("the request holds no pushed job", "invalid_request", 400, { cause });
    }
    if (!isPayload(pushed)) throw new TorilError("the request holds no pushed job", "invalid_request", 400);
    return new PushedJob(pushed as Payload<Data>, url);
  }

  /** The job's data. */
  get data(): Data {
    return this.job.data;
  }

  /**
   * Report how far the job is: any JSON.
   *
   * @throws TorilError `unauthorized`, when the job is no longer in flight
   */
  progress(value: unknown): Promise<void> {
    return this.#server.call(calls.progress(this.queue, this.job.id, value));
  }

  /**
   * Append a line to the job's log.
   *
   * @throws TorilError `unauthorized`, when the job is no longer in flight
   */
  log(line: string): Promise<void> {
    return this.#server.call(calls.log(this.queue, this.job.id, line));
  }

  /**
   * Complete a job that was answered with `Later`: any JSON; nothing is `null`.
   *
   * @throws TorilError `lease_lost`, when the job is no longer this token's, or `wrong_lock_token`, when somebody else has
   *   it; so do the next three
   */
  complete(value: Result): Promise<void> {
    return this.#server.call(calls.complete(this.queue, this.job.id, value));
  }

  /** Fail its attempt: an error, or what to say. With `Unrecoverable` the job, with `RetryIn` for so long. */
  fail(why: unknown): Promise<void> {
    return this.#server.call(calls.fail(this.queue, this.job.id, why));
  }

  /** It takes longer: the lease ends `leaseMs` from now (1 s to 24 h). */
  extend(leaseMs = LEASE_MS): Promise<void> {
    return this.#server.call(calls.extend(this.queue, this.job.id, leaseMs));
  }

  /** Give it back to the head of its queue, and spend no attempt. */
  release(): Promise<void> {
    return this.#server.call(calls.release(this.queue, this.job.id));
  }

  /** The answer that completes the job with a result: JSON; nothing is `null`. */
  static result(value: unknown): Response {
    return new Response(toJson(value), { headers: { "content-type": "application/json" } });
  }

  /**
   * The answer that fails the attempt. The status' reason phrase becomes the `failedReason`, `message` its trace.
   *
   * @param retryInMs when to try again, in place of the job's backoff, if attempts are left
   */
  static failure(message: string, status = 500, retryInMs?: number): Response {
    const headers = new Headers({ "content-type": "text/plain; charset=utf-8" });
    if (retryInMs !== undefined) headers.set("toril-retry-in", String(wholeMs(retryInMs)));
    return new Response(message, { status, headers });
  }

  /** The answer that keeps the job, to be settled within `leaseMs` (1 s to 24 h). */
  static later(leaseMs = LEASE_MS): Response {
    const headers = { "toril-settle": "later", "toril-lease-ms": String(wholeMs(leaseMs)) };
    return new Response(null, { status: 202, headers });
  }
}

/**
 * An ordinary web handler that works on pushed jobs: what `work` returns completes the job, but `Later` keeps it; what it
 * throws fails the attempt (500), `Unrecoverable` the job, `RetryIn` for so long. What is no pushed job is refused (400),
 * and so is, with secrets, what toril did not sign (401).
 *
 * @param url where toril is, for reports
 * @throws RangeError when a secret is none, or the list is empty
 */
export function pushHandler<Data = unknown, Result = unknown>(
  url: string, work: Work<Data, Result>, options: PushOptions = {},
): (request: Request) => Promise<Response> {
  if (options.secrets) readSecrets(options.secrets);
  return async (request) => {
    let pushed: PushedJob<Data, Result>;
    try {
      pushed = await PushedJob.from<Data, Result>(request, url, options);
    } catch (error) {
      if (error instanceof TorilError) return PushedJob.failure(error.message, error.status);
      return PushedJob.failure(error instanceof Error ? error.message : String(error), 400);
    }
    try {
      const result = await work(pushed);
      return result instanceof Later ? PushedJob.later(result.leaseMs) : PushedJob.result(result);
    } catch (error) {
      return await failed(pushed, error);
    }
  };
}

/** No answer can say that a job is beyond recovery. Its lock token can, and then the answer matters no more. */
async function failed<Data, Result>(pushed: PushedJob<Data, Result>, error: unknown): Promise<Response> {
  if (error instanceof Unrecoverable && await pushed.fail(error).then(() => true, () => false)) return PushedJob.later();
  const trace = error instanceof Error ? (error.stack ?? String(error)) : String(error);
  return PushedJob.failure(trace, 500, error instanceof RetryIn ? error.ms : undefined);
}

/** The whole body, counted while it comes, so that a caller who sends without end is stopped. */
async function bodyOf(request: Request, maxBytes: number): Promise<ArrayBuffer> {
  if (request.bodyUsed) {
    throw new TorilError("the body was read before: handle the request before it is parsed", "body_used", 500);
  }
  if (Number(request.headers.get("content-length") ?? 0) > maxBytes) throw tooLarge(maxBytes);
  const pieces: Uint8Array[] = [];
  let length = 0;
  const reader = request.body?.getReader();
  for (let read = await reader?.read(); read?.done === false; read = await reader!.read()) {
    length += read.value.byteLength;
    if (length > maxBytes) {
      await reader!.cancel();
      throw tooLarge(maxBytes);
    }
    pieces.push(read.value);
  }
  const whole = new Uint8Array(length);
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.byteLength;
  }
  return whole.buffer;
}

/** The error of a body over the limit. */
export function tooLarge(maxBytes: number): TorilError {
  return new TorilError(`the body is larger than ${maxBytes} bytes`, "payload_too_large", 413);
}

function isPayload(value: unknown): value is Payload {
  if (!isObject(value) || typeof value["token"] !== "string" || !isObject(value["job"])) return false;
  const { id, name, data, queueQualifiedName: queue } = value["job"];
  return typeof id === "string" && typeof name === "string" && data !== undefined
    && typeof queue === "string" && /:[^:]+$/.test(queue);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
