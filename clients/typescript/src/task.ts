/** A job in a worker's hands. */

import type { Job } from "./jobs.js";
import { toJson } from "./json.js";

/**
 * A job that a worker's handler works on.
 *
 * Heed `signal`: it is aborted when the connection breaks or the server calls the job off, and from then on the job is
 * another worker's, and nothing that the handler reports or returns arrives.
 */
export class Task<Data = unknown> {
  readonly job: Job<Data>;
  /** The job's lock token, which opens its progress and its log while it is in flight. */
  readonly token: string;
  /** Its reason is a `TorilError` that says what happened. */
  readonly signal: AbortSignal;
  readonly #report: (data: string) => void;

  /** @internal Made by `Worker`. */
  constructor(payload: Payload<Data>, signal: AbortSignal, report: (data: string) => void) {
    this.job = payload.job;
    this.token = payload.token;
    this.signal = signal;
    this.#report = report;
  }

  /** The job's data. */
  get data(): Data {
    return this.job.data;
  }

  /**
   * Report how far the job is: any JSON. It is written before the job ends.
   *
   * @throws TorilError `message_too_large`
   */
  progress(value: unknown): void {
    this.#report(`{"progress":${toJson(value)}}`);
  }

  /**
   * Append a line to the job's log. It is written before the job ends.
   *
   * @throws TorilError `message_too_large`
   */
  log(line: string): void {
    this.#report(`{"log":${toJson(String(line))}}`);
  }
}

/** A job as toril hands it out. */
export interface Payload<Data = unknown> {
  readonly job: Job<Data>;
  readonly token: string;
}
