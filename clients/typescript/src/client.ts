/** The way in: a client is where toril is and who is calling, a queue is one of its queues with the types of its jobs. */

import * as calls from "./calls.js";
import type { BulkAction, BulkOptions, BulkResult, EndpointOptions, Found, Searching } from "./calls.js";
import { Deliveries, Targets } from "./deliveries.js";
import { TorilError } from "./errors.js";
import { follow, type Listening, type QueueEvent } from "./events.js";
import { Groups } from "./groups.js";
import type { Job, JobOptions, NewJob, State } from "./jobs.js";
import { Server } from "./server.js";
import { Worker, type Handler, type WorkerOptions } from "./worker.js";

const STATES: readonly State[] = ["waiting", "active", "completed", "failed"];

/** Which jobs to list. */
export interface Listing {
  /** Without it, all but `delayed`. */
  readonly states?: readonly State[];
  readonly start?: number;
  /** How many of each state, at most 100; without it, 10. */
  readonly length?: number;
}

/** How long to wait for a result. */
export interface Waiting {
  /** Without it, 30,000. */
  readonly waitMs?: number;
  /** Its abort ends the wait with the signal's reason. */
  readonly signal?: AbortSignal;
}

/**
 * A toril.
 *
 * Calls that can be repeated safely are, while the server is away for a moment. What fails throws `TorilError`.
 */
export class Client {
  readonly #server: Server;
  /** Posts envelopes to targets, and looks after what becomes of them. */
  readonly deliveries: Deliveries;
  readonly targets: Targets;

  /**
   * @param url where it is, as `http://127.0.0.1:8080`
   * @param token an API token
   */
  constructor(url: string, token: string) {
    this.#server = new Server(url, token);
    this.deliveries = new Deliveries(this.#server);
    this.targets = new Targets(this.#server);
  }

  /** A queue, with the types of its jobs' data and results. Asks nothing of the server. */
  queue<Data = unknown, Result = unknown>(name: string): Queue<Data, Result> {
    return new Queue(this.#server, name);
  }

  /** Every registered endpoint's URL, by queue. */
  workers(): Promise<Record<string, string>> {
    return this.#server.call(calls.workers());
  }
}

/** A queue of jobs that take `Data` and end with a `Result`. */
export class Queue<Data = unknown, Result = unknown> {
  readonly name: string;
  /** The groups of its jobs, and their limits. */
  readonly groups: Groups;
  readonly #server: Server;

  /** @internal Made by `Client.queue`. */
  constructor(server: Server, name: string) {
    this.#server = server;
    this.name = name;
    this.groups = new Groups(server, name);
  }

  /**
   * Add one job. It gets an id here, so a repeated call cannot add it twice; not if it is deduplicated.
   *
   * @throws TorilError `invalid_request`, when the server does not take the job
   */
  async add(name: string, data: Data, opts: JobOptions = {}): Promise<Job<Data, Result>> {
    const [job] = await this.addBulk([{ name, data, opts }]);
    return job as Job<Data, Result>;
  }

  /** Add jobs, all or none; the answer is in the same order. */
  addBulk(jobs: Iterable<NewJob<Data>>): Promise<Job<Data, Result>[]> {
    return this.#server.call(calls.add(this.name, jobs));
  }

  /**
   * One job.
   *
   * @throws TorilError `job_not_found`
   */
  get(id: string): Promise<Job<Data, Result>> {
    return this.#server.call(calls.get(this.name, id));
  }

  /** The newest jobs of each state. */
  async jobs({ states = STATES, start = 0, length = 10 }: Listing = {}): Promise<Job<Data, Result>[]> {
    return (await this.#server.call(calls.page<Data, Result>(this.name, states, start, length))).jobs;
  }

  /** How many jobs are in each state. */
  async counts(states: readonly State[] = [...STATES, "delayed"]): Promise<Readonly<Record<string, number>>> {
    return (await this.#server.call(calls.page(this.name, states, 0, 0))).counts;
  }

  /** A job's log lines from `start` to `end` (`-1` is the last), oldest first. */
  logs(id: string, start = 0, end = -1): Promise<string[]> {
    return this.#server.call(calls.logs(this.name, id, start, end));
  }

  /**
   * Wait for a job's result, also while the server restarts.
   *
   * @throws JobFailed with the `failedReason` as its message
   * @throws TorilError `job_not_found`; `timeout` when it takes longer than `waitMs`
   */
  async result(id: string, { waitMs = 30_000, signal }: Waiting = {}): Promise<Result> {
    const until = Date.now() + waitMs;
    for (;;) {
      const leftMs = Math.max(until - Date.now(), 0);
      const outcome = await this.#server.call(calls.result<Result>(this.name, id, leftMs), { ms: leftMs, signal });
      if (outcome.done) return outcome.result;
      if (Date.now() >= until) {
        throw new TorilError(`job ${id} of ${this.name} is ${outcome.state} after ${waitMs} ms`, "timeout", 202);
      }
    }
  }

  /**
   * What happens in the queue, from now on or from behind an event's id. Connects again by itself, where it left off.
   *
   * `break` ends it.
   *
   * @throws TorilError when the server refuses: `unauthorized`, `invalid_request`
   */
  events(listening: Listening = {}): AsyncGenerator<QueueEvent<Result>, void> {
    return follow(this.#server, this.name, listening);
  }

  /**
   * The jobs that match, as `data.customer.id = 42 and failedReason ~ timeout`. `break` ends the search.
   *
   * @throws TorilError `invalid_where`
   */
  async *search(where: string, searching: Searching = {}): AsyncGenerator<Job<Data, Result>, void> {
    for (let cursor: string | null | undefined; cursor !== null;) {
      const found: Found<Data, Result> = await this.#server.call(calls.search(this.name, where, searching, cursor ?? null));
      yield* found.jobs;
      cursor = found.next_cursor;
    }
  }

  /** Retry, promote, remove or delay many jobs: `ids`, or all in `states` that match `where`. */
  bulk(action: BulkAction, options: BulkOptions): Promise<BulkResult> {
    return this.#server.call(calls.bulk(this.name, action, options));
  }

  /** Retry a failed or completed job. */
  retry(id: string): Promise<void> {
    return this.#server.call(calls.action("POST", ["queues", this.name, "jobs", id, "retry"], true));
  }

  /** Move a delayed job to waiting. */
  promote(id: string): Promise<void> {
    return this.#server.call(calls.action("POST", ["queues", this.name, "jobs", id, "promote"], true));
  }

  /** Remove a job and its children. */
  remove(id: string): Promise<void> {
    return this.#server.call(calls.action("DELETE", ["queues", this.name, "jobs", id], true));
  }

  /** Pause the queue: no worker takes jobs from it. */
  pause(): Promise<void> {
    return this.#server.call(calls.action("POST", ["queues", this.name, "pause"], false));
  }

  /** Resume the paused queue. */
  resume(): Promise<void> {
    return this.#server.call(calls.action("POST", ["queues", this.name, "resume"], false));
  }

  /** A worker on a WebSocket; `run` makes it work. */
  worker(handler: Handler<Data, Result>, options: WorkerOptions = {}): Worker<Data, Result> {
    return new Worker(this.#server, this.name, handler, options);
  }

  /** Register an endpoint as the queue's worker: toril sends it every job. Replaces the one before. */
  registerWorker(url: string, options: EndpointOptions = {}): Promise<void> {
    return this.#server.call(calls.register(this.name, url, options));
  }

  /**
   * Remove the queue's registered worker.
   *
   * @throws TorilError `worker_not_found`
   */
  unregisterWorker(): Promise<void> {
    return this.#server.call(calls.unregister(this.name));
  }
}
