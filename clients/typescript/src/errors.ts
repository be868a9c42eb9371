/**
 * What can go wrong.
 *
 *     TorilError            the server refused, or cannot be reached; `code` and `status` say why
 *     └── JobFailed         the job whose result was waited for has failed
 *     Unrecoverable         thrown by a handler: fail the job, though attempts are left
 *     RetryIn               thrown by a handler: try again after so long, instead of the job's backoff
 */

/**
 * The server refused, or cannot be reached.
 *
 * `code` is the server's and stable (`unauthorized`, `job_not_found`, `invalid_request` …). Codes of the client's own:
 * `unreachable`, `timeout` (a result took longer than was waited), `bad_answer` (what answered is no toril),
 * `message_too_large`. A task's signal says `connection_lost`, or why the server called it off: `timeout`, `lease_lost`.
 */
export class TorilError extends Error {
  override readonly name: string = "TorilError";
  /** What went wrong, for programs. */
  readonly code: string;
  /** The HTTP status of the answer; 0 if there was none. */
  readonly status: number;

  constructor(message: string, code: string, status = 0, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
    this.status = status;
  }
}

/** The job has failed; `message` is its `failedReason`. */
export class JobFailed extends TorilError {
  override readonly name = "JobFailed";
}

/** Thrown by a handler, or given to `PushedJob.fail`: fail the job at once, whatever attempts are left. */
export class Unrecoverable extends Error {
  override readonly name = "Unrecoverable";
}

/** The same: try the job again after `ms` milliseconds, if it has attempts left. */
export class RetryIn extends Error {
  override readonly name = "RetryIn";
  readonly ms: number;

  constructor(ms: number, message = "to be tried again", options?: { cause?: unknown }) {
    super(message, options);
    this.ms = ms;
  }
}
