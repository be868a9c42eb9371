/** For web handlers that toril pushes jobs to: verify and read the request, report, answer. */

import * as calls from "./calls.js";
import { TorilError } from "./errors.js";
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
}

/** A job that came in a request. Its lock token opens its progress and its log while it is in flight. */
export class PushedJob<Data = unknown> {
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
   * @param url where toril is, for progress and log lines; not read from the request, which anybody may have sent
   * @throws TorilError `invalid_request`, when it holds no pushed job; answer with its status, 400
   * @throws TorilError `unauthorized`, when there are secrets and toril did not sign it; answer with its status, 401
   * @throws RangeError when a secret is none, or the list is empty
   */
  static async from<Data = unknown>(
    request: Request, url: string, { secrets }: PushOptions = {},
  ): Promise<PushedJob<Data>> {
    const body = await request.arrayBuffer();
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

  /** The answer that completes the job with a result: JSON; nothing is `null`. */
  static result(value: unknown): Response {
    return new Response(toJson(value), { headers: { "content-type": "application/json" } });
  }

  /** The answer that fails the attempt. The status' reason phrase becomes the `failedReason`, `message` its trace. */
  static failure(message: string, status = 500): Response {
    return new Response(message, { status, headers: { "content-type": "text/plain; charset=utf-8" } });
  }
}

/**
 * An ordinary web handler that works on pushed jobs: what `work` returns completes the job, what it throws fails the
 * attempt (500), what is no pushed job is refused (400), and so is, with secrets, what toril did not sign (401).
 *
 * @param url where toril is, for progress and log lines
 * @throws RangeError when a secret is none, or the list is empty
 */
export function pushHandler<Data = unknown, Result = unknown>(
  url: string, work: (pushed: PushedJob<Data>) => Result | Promise<Result>, options: PushOptions = {},
): (request: Request) => Promise<Response> {
  if (options.secrets) readSecrets(options.secrets);
  return async (request) => {
    let pushed: PushedJob<Data>;
    try {
      pushed = await PushedJob.from<Data>(request, url, options);
    } catch (error) {
      if (error instanceof TorilError) return PushedJob.failure(error.message, error.status);
      return PushedJob.failure(error instanceof Error ? error.message : String(error), 400);
    }
    try {
      return PushedJob.result(await work(pushed));
    } catch (error) {
      return PushedJob.failure(error instanceof Error ? (error.stack ?? String(error)) : String(error));
    }
  };
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
