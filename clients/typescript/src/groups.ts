/** Groups of a queue's jobs: their limits, and what waits and runs of each. */

import { fromJson } from "./json.js";
import { path, type Call, type Server } from "./server.js";

/** The limits of a group; what is left out has no limit, or the default of the queue's worker. */
export interface GroupLimits {
  /** So many of its jobs run at once. */
  readonly concurrency?: number;
  /** At most `max` starts in `duration` milliseconds. */
  readonly limit?: { readonly max: number; readonly duration: number };
  /** Its share beside other groups, from 1 to 1,000. */
  readonly weight?: number;
  /** With so many waiting jobs, an add is refused with the code `group_full`. */
  readonly maxWaiting?: number;
  /** None of its jobs starts; left as it is unless it is given. */
  readonly paused?: boolean;
}

/** Limits as the server tells of them; null is no limit. */
export interface LimitsInForce {
  readonly concurrency: number | null;
  readonly limit: { readonly max: number; readonly duration: number } | null;
  readonly weight: number | null;
  readonly max_waiting: number | null;
}

/** A group as the server tells of it. */
export interface Group {
  readonly id: string;
  readonly waiting: number;
  readonly active: number;
  readonly paused: boolean;
  /** Those that were set. */
  readonly limits: LimitsInForce;
  /** Those with the default of the queue's worker. */
  readonly effective: LimitsInForce;
  /** When its rate lets the next job start (RFC 3339); null where that is now. */
  readonly held_until: string | null;
}

interface Page {
  readonly groups: Group[];
  readonly next_cursor: string | null;
}

/** The groups of one queue. A number names the same group as its text. */
export class Groups {
  readonly #server: Server;
  readonly #queue: string;

  /** @internal Made by `Queue`. */
  constructor(server: Server, queue: string) {
    this.#server = server;
    this.#queue = queue;
  }

  /** The groups that have jobs or limits, by id; `match` is a glob for their ids. `break` ends it. */
  async *list(match?: string): AsyncGenerator<Group, void> {
    for (let cursor: string | null | undefined; cursor !== null;) {
      const query = { limit: "1000", ...(match && { match }), ...(cursor && { cursor }) };
      const page: Page = await this.#server.call<Page>({
        method: "GET", path: path("queues", this.#queue, "groups"), query, read: fromJson,
      });
      yield* page.groups;
      cursor = page.next_cursor;
    }
  }

  /** A group, also one that has nothing. */
  get(id: string | number): Promise<Group> {
    return this.#server.call<Group>({ method: "GET", path: this.#path(id), read: fromJson });
  }

  /** Replace the limits of a group; they count at once. */
  set(id: string | number, limits: GroupLimits): Promise<Group> {
    const { maxWaiting: max_waiting, ...rest } = limits;
    return this.#server.call<Group>({ method: "PUT", path: this.#path(id), json: { ...rest, max_waiting }, read: fromJson });
  }

  /** Remove the limits and the pause of a group. */
  reset(id: string | number): Promise<void> {
    return this.#server.call<void>({ method: "DELETE", path: this.#path(id), read: () => undefined });
  }

  /** Pause a group: none of its jobs starts. */
  pause(id: string | number): Promise<void> {
    return this.#server.call(this.#switch(id, "pause"));
  }

  /** Resume a paused group. */
  resume(id: string | number): Promise<void> {
    return this.#server.call(this.#switch(id, "resume"));
  }

  /** Remove the waiting jobs of a group; how many there were. Not repeated: the second answer would count none. */
  drain(id: string | number): Promise<number> {
    const read = (body: string): number => fromJson<{ removed: number }>(body).removed;
    return this.#server.call<number>({ method: "POST", path: `${this.#path(id)}/drain`, once: true, read });
  }

  #path(id: string | number): string {
    return path("queues", this.#queue, "groups", String(id));
  }

  #switch(id: string | number, action: string): Call<void> {
    return { method: "POST", path: `${this.#path(id)}/${action}`, read: () => undefined };
  }
}
