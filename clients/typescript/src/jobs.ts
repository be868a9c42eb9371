/** Jobs as plain data, spelled as BullMQ spells them. Times are in milliseconds. */

/** How often and how far apart to try again. */
export interface Backoff {
  readonly type: "fixed" | "exponential";
  readonly delay: number;
  /** The part of the delay that is left to chance, from 0 to 1. */
  readonly jitter?: number;
}

/** What happens to a job whose deduplication id is taken: it is dropped, unless this says otherwise. */
export interface Deduplication {
  readonly id: string;
  /** The id is taken for so long. */
  readonly ttl?: number;
  /** Each dropped job starts `ttl` anew. */
  readonly extend?: boolean;
  /** It takes the place of a job that is delayed. */
  readonly replace?: boolean;
  /** The last one that comes while a job is active is added when that one ends; `ttl` does not count then. */
  readonly keepLastIfActive?: boolean;
}

/** Which finished jobs to keep: the last `count`, those younger than `age` seconds. */
export interface Keep {
  readonly count?: number;
  readonly age?: number;
}

/** The group that a job belongs to, such as a tenant. */
export interface GroupOption {
  /** From 1 to 256 characters; an integer is the group of that text. */
  readonly id: string | number;
  /** Within the group, from 0, the first, to 2,097,152. */
  readonly priority?: number;
}

/** What can be asked of a job. */
export interface JobOptions {
  /** How often to try in all; without it, once. */
  readonly attempts?: number;
  readonly backoff?: number | Backoff;
  readonly delay?: number;
  /** From 1, the most urgent, to 2,097,151. Jobs without one go first. */
  readonly priority?: number;
  /** Groups share the workers fairly and have limits: see `Queue.groups`. Its priority counts in place of `priority`. */
  readonly group?: GroupOption;
  /** Take the newest job first. */
  readonly lifo?: boolean;
  /** The job's id; adding the same id again adds nothing. Made up if there is none. */
  readonly jobId?: string;
  /** While there is a job with this id (or for `ttl`), later ones are dropped. */
  readonly deduplication?: Deduplication;
  readonly removeOnComplete?: boolean | number | Keep;
  readonly removeOnFail?: boolean | number | Keep;
  /** When the job was made, instead of now. */
  readonly timestamp?: number;
  /** How many of its log lines and stack traces to keep: the newest. */
  readonly keepLogs?: number;
  readonly stackTraceLimit?: number;
  /** The job is refused where its data has more bytes. */
  readonly sizeLimit?: number;
  /** What a tracer passes on with the job. */
  readonly telemetry?: { readonly metadata?: string; readonly omitContext?: boolean };
  /** What its failure does to its parent in a flow; at most one of these. */
  readonly failParentOnFailure?: boolean;
  readonly continueParentOnFailure?: boolean;
  readonly ignoreDependencyOnFailure?: boolean;
  readonly removeDependencyOnFailure?: boolean;
}

/** A job to add. */
export interface NewJob<Data = unknown> {
  readonly name: string;
  readonly data: Data;
  readonly opts?: JobOptions;
}

/** A job as the server tells of it. */
export interface Job<Data = unknown, Result = unknown> {
  readonly id: string;
  readonly name: string;
  readonly data: Data;
  readonly opts: JobOptions;
  /** What its worker reported last; 0 if nothing. */
  readonly progress: unknown;
  readonly returnvalue: Result | null;
  readonly failedReason?: string;
  /** An entry for each attempt that failed. */
  readonly stacktrace: readonly string[] | null;
  readonly attemptsMade: number;
  readonly attemptsStarted: number;
  readonly delay: number;
  readonly priority: number;
  /** When it was added, in milliseconds since 1970. */
  readonly timestamp: number;
  readonly processedOn?: number;
  readonly finishedOn?: number;
  readonly deduplicationId?: string;
  /** `prefix:queue`. */
  readonly queueQualifiedName: string;
}

/** The states that jobs can be listed by. */
export type State = "waiting" | "active" | "completed" | "failed" | "delayed";

/** What is posted for a job. It gets an id here, so that adding it twice adds it once; not if it is deduplicated. */
export function withId<Data>(job: NewJob<Data>): NewJob<Data> & { readonly opts: JobOptions } {
  const opts = job.opts ?? {};
  return opts.jobId !== undefined || opts.deduplication !== undefined
    ? { ...job, opts }
    : { ...job, opts: { ...opts, jobId: crypto.randomUUID() } };
}
