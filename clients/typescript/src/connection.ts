/**
 * One connection of a worker: jobs come over it, and what the handler returns or throws goes back.
 *
 * Knows the messages of `/ws/queues/{queue}/process/{concurrency}?payload=job`; connecting again is `Worker`'s.
 */

import { RetryIn, TorilError, Unrecoverable } from "./errors.js";
import { fromJson, toJson } from "./json.js";
import type { Socket } from "./sockets.js";
import { Task, type Payload } from "./task.js";

/** What a connection is told of its worker. */
export interface Rules<Data, Result> {
  readonly handler: (task: Task<Data>) => Result | Promise<Result>;
  readonly maxMessageBytes: number;
  readonly heartbeatMs: number;
}

interface Message<Data> {
  readonly id?: number | null;
  readonly data?:
    | { readonly type: "process"; readonly payload: Payload<Data> }
    | { readonly type: "cancel"; readonly reason: string }
    | { readonly type: "drain" };
}

/** Serves an open socket until it is closed. */
export class Connection<Data, Result> {
  /** Resolves when the connection is over, with why. Never rejects. */
  readonly over: Promise<TorilError>;
  readonly #socket: Socket;
  readonly #rules: Rules<Data, Result>;
  readonly #held = new Map<number, AbortController>();

  constructor(socket: Socket, rules: Rules<Data, Result>) {
    this.#socket = socket;
    this.#rules = rules;
    this.over = new Promise((resolve) => {
      const heart = new Heart(rules.heartbeatMs, () => socket.send(PING), () => end("it was silent for too long"));
      let ended = false;
      const end = (why: string): void => {
        ended = true;
        heart.stop();
        const error = new TorilError(`the connection to toril broke: ${why}`, "connection_lost");
        for (const held of this.#held.values()) held.abort(error);
        this.#held.clear();
        socket.close();
        resolve(error);
      };
      socket.addEventListener("close", ({ code, reason }) => end(reason === "" ? `code ${code}` : reason));
      socket.addEventListener("message", ({ data }) => {
        heart.beat();
        if (!ended) this.#hear(fromJson(String(data)));
      });
    });
  }

  /** Ask for no more jobs; the server ends the connection behind the last answer. */
  stop(): void {
    this.#socket.send('{"data":{"type":"stop"}}');
  }

  #hear({ id, data }: Message<Data>): void {
    if (typeof id !== "number" || data === undefined) return; // a drain, or the answer to a heartbeat
    if (data.type === "process") {
      void this.#work(id, data.payload);
    } else if (data.type === "cancel") {
      this.#held.get(id)?.abort(new TorilError(`toril has called the job off: ${data.reason}`, data.reason));
      this.#held.delete(id);
    }
  }

  async #work(id: number, payload: Payload<Data>): Promise<void> {
    const held = new AbortController();
    this.#held.set(id, held);
    const report = (data: string): void => {
      const message = this.#fitting(`{"id":${id},"data":${data}}`);
      if (this.#held.has(id)) this.#socket.send(message);
    };
    const reply = await this.#reply(id, new Task(payload, held.signal, report));
    // It is gone from there if the job no longer belongs to this worker.
    if (this.#held.delete(id)) this.#socket.send(reply);
  }

  async #reply(id: number, task: Task<Data>): Promise<string> {
    try {
      const result = await this.#rules.handler(task);
      return this.#fitting(`{"id":${id},"data":{"result":${toJson(result)}}}`);
    } catch (thrown) {
      const err = described(thrown);
      try {
        return this.#fitting(toJson({ id, err }));
      } catch (tooLarge) {
        return toJson({ id, err: { ...err, ...described(tooLarge) } });
      }
    }
  }

  /** A message as text. The server closes the socket over one that is too large, and would send the job again. */
  #fitting(message: string): string {
    const most = this.#rules.maxMessageBytes;
    if (message.length * 3 > most && new TextEncoder().encode(message).length > most) {
      throw new TorilError(`the message has more than ${most} bytes`, "message_too_large");
    }
    return message;
  }
}

/** The server answers this, if only by saying that it names no job. */
const PING = '{"data":{"type":"ping"}}';

/** Notices a dead connection: after a silence it calls `ask`, and if that stays unanswered as long, `dead`. */
class Heart {
  readonly #timer: ReturnType<typeof setInterval>;
  #heard = true;
  #asked = false;
  #looked = Date.now();

  constructor(everyMs: number, ask: () => void, dead: () => void) {
    this.#timer = setInterval(() => {
      // Who was held up by a busy handler may have something waiting to be read.
      const late = Date.now() - this.#looked > 1.5 * everyMs;
      this.#looked = Date.now();
      if (this.#asked && !this.#heard && !late) {
        dead();
        return;
      }
      this.#asked = !this.#heard;
      this.#heard = false;
      if (this.#asked) ask();
    }, everyMs);
  }

  beat(): void {
    this.#heard = true;
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}

function described(thrown: unknown): object {
  if (!(thrown instanceof Error)) return { message: String(thrown) };
  const { message, name, stack } = thrown;
  const err = { message: message || name, stack };
  if (thrown instanceof Unrecoverable) return { ...err, unrecoverable: true };
  if (thrown instanceof RetryIn) return { ...err, retryIn: Math.max(0, Math.round(thrown.ms)) };
  return err;
}
