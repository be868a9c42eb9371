/** A worker on a WebSocket: jobs come in, what the handler returns goes out. Connects again by itself. */

import * as calls from "./calls.js";
import { Connection } from "./connection.js";
import { TorilError } from "./errors.js";
import { pauseMs, sleep } from "./pauses.js";
import { isPassing, path, type Server } from "./server.js";
import { openSocket } from "./sockets.js";
import type { Task } from "./task.js";

const SHORTEST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
const MOST_AT_ONCE = 10_000;
const LONGEST_TIMEOUT_MS = 7 * 24 * 3_600_000;

/**
 * Works on one job. What it returns (JSON; nothing is `null`) completes the job, what it throws fails the attempt:
 * `Unrecoverable` the job at once, `RetryIn` with its own pause before the next attempt.
 */
export type Handler<Data = unknown, Result = unknown> = (task: Task<Data>) => Result | Promise<Result>;

/** How a worker works. */
export interface WorkerOptions {
  /** How many jobs at once, at most 10,000; without it, 1. */
  readonly concurrency?: number;
  /** After which an attempt counts as failed; without it, a job may take as long as it likes. */
  readonly timeoutMs?: number;
  /** Called with what went wrong, before each time it connects again. */
  readonly onRetry?: (error: TorilError) => void;
  /** After how long a silence to ask whether the connection still lives; without it, 20,000. */
  readonly heartbeatMs?: number;
  /** The server's `max_body_bytes`: a larger result fails the attempt. Without it, the server's default of 10 MiB. */
  readonly maxMessageBytes?: number;
}

/** Consumes a queue over a socket. Made by `Queue.worker`. */
export class Worker<Data = unknown, Result = unknown> {
  readonly #server: Server;
  readonly #queue: string;
  readonly #handler: Handler<Data, Result>;
  readonly #options: WorkerOptions;
  readonly #url: string;
  readonly #stopping = new AbortController();
  #connection: Connection<Data, Result> | undefined;
  #running: Promise<void> | undefined;

  /** @internal */
  constructor(server: Server, queue: string, handler: Handler<Data, Result>, options: WorkerOptions) {
    const { concurrency = 1, timeoutMs } = options;
    const timeout = timeoutMs === undefined ? "" : `&timeout=${whole("timeoutMs", timeoutMs, LONGEST_TIMEOUT_MS)}`;
    const places = whole("concurrency", concurrency, MOST_AT_ONCE);
    this.#url = server.socketUrl(`${path("ws", "queues", queue, "process", places)}?payload=job${timeout}`);
    this.#server = server;
    this.#queue = queue;
    this.#handler = handler;
    this.#options = options;
  }

  /**
   * Work until `stop` is called; resolves when the last job is done. A worker runs once.
   *
   * @throws TorilError when the server refuses this worker for good: `unauthorized`, `invalid_request`, `not_found`
   */
  run(): Promise<void> {
    this.#running ??= this.#run();
    return this.#running;
  }

  /** Take no more jobs and finish those at hand; resolves when they are done. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#connection?.stop();
    await Promise.allSettled([this.#running]);
  }

  async #run(): Promise<void> {
    const stopping = this.#stopping.signal;
    let failures = 0;
    while (!stopping.aborted) {
      let lost: TorilError;
      try {
        this.#connection = await this.#connect(stopping);
        failures = 0;
        if (stopping.aborted) this.#connection.stop();
        lost = await this.#connection.over;
      } catch (error) {
        if (stopping.aborted) return;
        if (!(error instanceof TorilError) || (error.status < 500 && !isPassing(error))) throw error;
        lost = error;
      }
      this.#connection = undefined;
      if (stopping.aborted) return;
      this.#options.onRetry?.(lost);
      await sleep(pauseMs(failures, SHORTEST_PAUSE_MS, LONGEST_PAUSE_MS), stopping);
      failures += 1;
    }
  }

  async #connect(signal: AbortSignal): Promise<Connection<Data, Result>> {
    const { heartbeatMs = 20_000, maxMessageBytes = 10 * 1024 ** 2 } = this.#options;
    const rules = { handler: this.#handler, heartbeatMs, maxMessageBytes };
    try {
      return await openSocket(this.#url, this.#server.token, signal, (socket) => new Connection(socket, rules));
    } catch (error) {
      // A WebSocket does not say why it was refused. What is wrong with the token or the queue, a plain call tells.
      if (isPassing(error)) {
        await this.#server.call({ ...calls.page(this.#queue, ["waiting"], 0, 0), once: true }, { signal });
      }
      throw error;
    }
  }
}

function whole(name: string, value: number, most: number): string {
  if (Number.isInteger(value) && value >= 1 && value <= most) return String(value);
  throw new RangeError(`${name} must be a whole number from 1 to ${most}, and is ${value}`);
}
