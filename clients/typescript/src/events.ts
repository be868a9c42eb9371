/** What happens to the jobs of a queue, as an endless iteration that survives restarts. */

import { fromJson } from "./json.js";
import { pauseMs, sleep } from "./pauses.js";
import { isPassing, path, reaching, type Server } from "./server.js";
import { blocks, type Block } from "./sse.js";

const SHORTEST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5_000;
/** The server says something every 15 s, so a connection that is silent for so long is dead. */
const SILENCE_MS = 45_000;

interface OfJob {
  readonly jobId: string;
  /** The state before. */
  readonly prev?: string;
}

/** What the data of each event is. A newer BullMQ may send others. */
export interface EventData<Result = unknown> {
  readonly added: OfJob & { readonly name: string };
  readonly waiting: OfJob;
  readonly active: OfJob;
  readonly progress: OfJob & { readonly data: unknown };
  readonly completed: OfJob & { readonly returnvalue: Result };
  readonly failed: OfJob & { readonly failedReason: string };
  readonly delayed: OfJob & { readonly delay: unknown };
  readonly stalled: OfJob;
  readonly removed: OfJob;
  readonly duplicated: OfJob;
  readonly debounced: OfJob & { readonly debounceId: string };
  readonly deduplicated: OfJob & { readonly deduplicationId: string; readonly deduplicatedJobId: string };
  readonly "waiting-children": OfJob;
  readonly "retries-exhausted": OfJob & { readonly attemptsMade: unknown };
  readonly drained: unknown;
  readonly paused: unknown;
  readonly resumed: unknown;
  /** Events behind `since` are lost: the queue had forgotten them. */
  readonly gap: { readonly since: string };
}

/** Something that happened. `id` is where to resume from; `name` tells what `data` is. */
export type QueueEvent<Result = unknown> = {
  [Name in keyof EventData<Result>]: {
    readonly id: string;
    readonly name: Name;
    readonly data: EventData<Result>[Name];
  };
}[keyof EventData<Result>];

/** Where to begin, and when to end. */
export interface Listening {
  /** Begin behind the event with this id (`"0"` is the oldest that is kept); without it, now. */
  readonly since?: string;
  /** Its abort makes the iteration throw the signal's reason. */
  readonly signal?: AbortSignal;
}

/** Follow a queue's events; see `Queue.events`. */
export async function* follow<Result>(
  server: Server, queue: string, { since, signal }: Listening,
): AsyncGenerator<QueueEvent<Result>, void> {
  let last = since;
  let failures = 0;
  for (;;) {
    signal?.throwIfAborted();
    try {
      for await (const { id, event, data } of listen(server, queue, last, signal)) {
        failures = 0;
        last = id ?? last;
        if (data !== undefined) yield { id: last, name: event, data: fromJson(data) } as QueueEvent<Result>;
      }
    } catch (error) {
      if (!isPassing(error)) throw error;
    }
    await sleep(pauseMs(failures, SHORTEST_PAUSE_MS, LONGEST_PAUSE_MS), signal);
    failures += 1;
  }
}

/** One connection, until it ends. */
async function* listen(
  server: Server, queue: string, last: string | undefined, signal: AbortSignal | undefined,
): AsyncGenerator<Block, void> {
  const connection = new AbortController();
  const end = (): void => connection.abort();
  signal?.addEventListener("abort", end);
  let silence = setTimeout(end, SILENCE_MS);
  const heard = (): void => {
    clearTimeout(silence);
    silence = setTimeout(end, SILENCE_MS);
  };
  try {
    const headers = { accept: "text/event-stream", ...(last === undefined ? {} : { "last-event-id": last }) };
    const response = await server.stream(path("queues", queue, "events"), headers, connection.signal, signal);
    if (response.body === null) return;
    const read = blocks(response.body, heard);
    for (;;) {
      const { done, value } = await reaching(read.next(), signal);
      if (done === true) return;
      yield value;
    }
  } finally {
    clearTimeout(silence);
    signal?.removeEventListener("abort", end);
    end();
  }
}
