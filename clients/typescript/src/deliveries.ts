/** Deliveries, dead letters and targets: `client.deliveries` and `client.targets`. Times are in milliseconds, or RFC 3339. */

import { LONGEST_WAIT_MS } from "./calls.js";
import { TorilError } from "./errors.js";
import type { GroupOption } from "./jobs.js";
import { fromJson } from "./json.js";
import { path, type Call, type Server } from "./server.js";

/** Where a delivery stands; the last three are its end. */
export type DeliveryStatus = "queued" | "dispatching" | "retrying" | "delivered" | "dead_lettered" | "cancelled";

/** What an envelope may have beside its target. */
export interface EnvelopeOptions {
  readonly body?: unknown;
  /** A body of bytes, in Base64, in place of `body`. */
  readonly bodyBase64?: string;
  /** POST, unless given. */
  readonly method?: string;
  /** What follows the target's URL. */
  readonly path?: string;
  readonly headers?: Readonly<Record<string, string | readonly string[]>>;
  readonly delayMs?: number;
  /** Not before this time. */
  readonly notBefore?: string;
  /** Given up after this time. */
  readonly deadline?: string;
  /** The lower the earlier. */
  readonly priority?: number;
  readonly labels?: Readonly<Record<string, string>>;
  /** Groups share the target fairly and have limits: see `Queue.groups`. Its priority counts in place of `priority`. */
  readonly group?: GroupOption;
  /** The same key with the same envelope is the same delivery. Made up if there is none. */
  readonly idempotencyKey?: string;
}

/** What the acceptance of an envelope says. */
export interface AcceptedDelivery {
  readonly job_id: string;
  readonly target: string;
  readonly status: DeliveryStatus;
}

/** A delivery as the server lists it. */
export interface Delivery extends AcceptedDelivery {
  readonly attempts_made: number;
  readonly max_attempts: number;
  readonly created_at: string;
  readonly updated_at: string;
  readonly next_attempt_at: string | null;
  readonly deadline: string | null;
  readonly last_error: string | null;
  /** Why it is a dead letter: `refused`, `attempts`, `deadline` … */
  readonly reason: string | null;
  readonly labels: Readonly<Record<string, string>>;
  /** The group that its envelope named. */
  readonly group: { readonly id: string; readonly priority: number } | null;
}

/** A delivery with its history. */
export interface DeliveryHistory extends Delivery {
  /** The target's last answer, without its body. */
  readonly response: { readonly status: number; readonly body_bytes: number; readonly truncated: boolean } | null;
  readonly transitions: readonly { readonly seq: number; readonly to: DeliveryStatus; readonly at: string; readonly reason: string | null }[];
  readonly attempts: readonly Readonly<Record<string, unknown>>[];
}

/** Which deliveries: those that meet all of these. */
export interface DeliveryFilter {
  readonly since?: string;
  readonly until?: string;
  readonly reason?: string;
  readonly errorContains?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

/** Which dead letters to replay: `jobIds`, a filter, or `all`. */
export interface ReplayOptions extends DeliveryFilter {
  readonly jobIds?: readonly string[];
  readonly all?: boolean;
  /** At most so many: 1,000 unless given, 10,000 at most. */
  readonly limit?: number;
  /** Only say which they would be. */
  readonly dryRun?: boolean;
  /** `new` sends another idempotency key from now on. */
  readonly replayKey?: "keep" | "new";
}

/** How many dead letters matched, how many were replayed, and which. */
export interface Replayed {
  readonly matched: number;
  readonly replayed: number;
  readonly job_ids: readonly string[];
}

/** A target with its status. */
export interface Target {
  readonly name: string;
  readonly paused: boolean;
  readonly held_until: string | null;
  readonly dead_letters: number;
  readonly in_flight: number;
  readonly breaker: { readonly state: string; readonly failures: number };
  readonly depth: { readonly queued: number; readonly dispatching: number; readonly retrying: number };
}

interface Page {
  readonly jobs: readonly Delivery[];
  readonly next_cursor: string | null;
}

const ENDED: readonly DeliveryStatus[] = ["delivered", "dead_lettered", "cancelled"];

/** Posts envelopes to targets, and looks after what becomes of them. */
export class Deliveries {
  readonly #server: Server;

  /** @internal Made by `Client`. */
  constructor(server: Server) {
    this.#server = server;
  }

  /** Hand an envelope over. It is safe to repeat: the key makes a second one the same delivery. */
  enqueue(target: string, options: EnvelopeOptions = {}): Promise<AcceptedDelivery> {
    const { bodyBase64: body_base64, delayMs: delay_ms, notBefore: not_before, idempotencyKey, ...rest } = options;
    const headers = { "idempotency-key": idempotencyKey ?? crypto.randomUUID() };
    const json = { target, ...rest, body_base64, delay_ms, not_before };
    return this.#server.call<AcceptedDelivery>({ method: "POST", path: "/enqueue", json, headers, read: fromJson });
  }

  /**
   * A delivery with its history.
   *
   * @throws TorilError `job_not_found`
   */
  get(id: string): Promise<DeliveryHistory> {
    return this.#server.call<DeliveryHistory>({ method: "GET", path: path("jobs", id), read: fromJson });
  }

  /**
   * A delivery as soon as it has ended, also while the server restarts.
   *
   * @throws TorilError `timeout`, when it takes longer than `waitMs`; without it, 30,000
   */
  async wait(id: string, { waitMs = 30_000 }: { readonly waitMs?: number } = {}): Promise<DeliveryHistory> {
    const until = Date.now() + waitMs;
    for (;;) {
      const leftMs = Math.min(Math.max(until - Date.now(), 1), LONGEST_WAIT_MS);
      const found = await this.#server.call<DeliveryHistory>({
        method: "GET", path: path("jobs", id), query: { wait: (leftMs / 1000).toFixed(3) }, timeoutMs: leftMs + 30_000, read: fromJson,
      });
      if (ENDED.includes(found.status)) return found;
      if (Date.now() >= until) throw new TorilError(`delivery ${id} is ${found.status} after ${waitMs} ms`, "timeout", 200);
    }
  }

  /** The body of the target's last answer, as text. */
  responseBody(id: string): Promise<string> {
    return this.#server.call<string>({ method: "GET", path: path("jobs", id, "response", "body"), read: (body) => body });
  }

  /** Deliveries, the newest first. `break` ends it. */
  list(
    filter: DeliveryFilter & { readonly target?: string; readonly status?: readonly DeliveryStatus[] } = {},
  ): AsyncGenerator<Delivery, void> {
    const { target, status, ...rest } = filter;
    return this.#all("/jobs", { ...query(rest), ...(target && { target }), ...(status && { status: status.join() }) });
  }

  /** Cancel a delivery that has not ended. */
  cancel(id: string): Promise<AcceptedDelivery> {
    return this.#server.call<AcceptedDelivery>({ method: "DELETE", path: path("jobs", id), once: true, read: fromJson });
  }

  /** The dead letters of a target, the newest first. */
  deadLetters(target: string, filter: DeliveryFilter = {}): AsyncGenerator<Delivery, void> {
    return this.#all(path("targets", target, "dead-letters"), query(filter));
  }

  /** Replay dead letters. Not repeated: they would get a fresh budget twice. */
  replay(target: string, options: ReplayOptions): Promise<Replayed> {
    const { jobIds: job_ids, errorContains: error_contains, dryRun: dry_run, replayKey: replay_key, ...rest } = options;
    const json = { ...rest, job_ids, error_contains, dry_run, replay_key };
    return this.#server.call<Replayed>({
      method: "POST", path: path("targets", target, "dead-letters", "replay"), json, once: true, read: fromJson,
    });
  }

  /** Remove a dead letter for good. */
  purge(target: string, id: string): Promise<void> {
    return this.#server.call<void>({
      method: "DELETE", path: path("targets", target, "dead-letters", id), once: true, read: () => undefined,
    });
  }

  async *#all(where: string, given: Record<string, string>): AsyncGenerator<Delivery, void> {
    for (let cursor: string | null | undefined; cursor !== null;) {
      const page: Page = await this.#server.call<Page>({
        method: "GET", path: where, query: { ...given, ...(cursor && { cursor }) }, read: fromJson,
      });
      yield* page.jobs;
      cursor = page.next_cursor;
    }
  }
}

/** Receivers of deliveries, and how they are. */
export class Targets {
  readonly #server: Server;

  /** @internal Made by `Client`. */
  constructor(server: Server) {
    this.#server = server;
  }

  /** Every target with its status. */
  list(): Promise<Target[]> {
    const read = (body: string): Target[] => fromJson<{ targets: Target[] }>(body).targets;
    return this.#server.call<Target[]>({ method: "GET", path: "/targets", read });
  }

  /**
   * One target with its status.
   *
   * @throws TorilError `unknown_target`
   */
  get(name: string): Promise<Target> {
    return this.#server.call<Target>({ method: "GET", path: path("targets", name), read: fromJson });
  }

  /** Pause a target on all instances; attempts under way continue. */
  pause(name: string): Promise<void> {
    return this.#server.call(switching(name, "pause"));
  }

  /** Resume a paused target, and end the hold that it asked for. */
  resume(name: string): Promise<void> {
    return this.#server.call(switching(name, "resume"));
  }
}

function switching(name: string, action: string): Call<void> {
  return { method: "POST", path: path("targets", name, action), read: () => undefined };
}

function query({ labels = {}, errorContains, ...rest }: DeliveryFilter): Record<string, string> {
  const named = Object.entries(labels).map(([name, value]) => [`label.${name}`, value]);
  return { ...rest, ...(errorContains && { error_contains: errorContains }), ...Object.fromEntries(named) };
}
