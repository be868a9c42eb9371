/** What the tests share: the toril under test, queues of their own, and a relay that breaks connections. */

import { once } from "node:events";
import { createServer as createHttpServer, type RequestListener } from "node:http";
import { createServer, connect, type AddressInfo, type Server as NetServer, type Socket } from "node:net";
import { buffer } from "node:stream/consumers";
import { Client, type Handler, type Queue, type Worker, type WorkerOptions } from "toril-client";

export const TORIL = process.env["TORIL"] ?? "http://127.0.0.1:8080";
export const TOKEN = process.env["TOKEN"] ?? "";
export const toril = new Client(TORIL, TOKEN);

/** A queue that nobody else uses. */
export function newQueue<Data = unknown, Result = unknown>(client = toril): Queue<Data, Result> {
  return client.queue(`ts-${crypto.randomUUID()}`);
}

/** Resolves as soon as a fact holds; rejects when it does not within ten seconds. */
export async function eventually(fact: () => unknown, what = fact.toString()): Promise<void> {
  const until = Date.now() + 10_000;
  while (!fact()) {
    if (Date.now() > until) throw new Error(`waited in vain for ${what}`);
    await sleep(5);
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Let a worker run for as long as `during` takes, and stop it behind it. */
export async function working<Data, Result>(
  queue: Queue<Data, Result>, handler: Handler<Data, Result>, during: (worker: Worker<Data, Result>) => Promise<void>,
  options: WorkerOptions = {},
): Promise<void> {
  const worker = queue.worker(handler, options);
  const running = worker.run();
  try {
    await Promise.race([during(worker), running.then(() => Promise.reject(new Error("the worker ended early")))]);
  } finally {
    await worker.stop();
  }
  await running;
}

/** An HTTP server, for as long as `during` takes. */
export async function listening(listener: RequestListener, during: (url: string) => Promise<void>): Promise<void> {
  const server = createHttpServer(listener);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  try {
    await during(`http://127.0.0.1:${(server.address() as AddressInfo).port}/work`);
  } finally {
    server.close();
    server.closeAllConnections();
  }
}

/** The same around a web handler. */
export function serving(
  handle: (request: Request) => Response | Promise<Response>, during: (url: string) => Promise<void>,
): Promise<void> {
  return listening(async (incoming, outgoing) => {
    const headers = new Headers(incoming.headers as Record<string, string>);
    const body = new Uint8Array(await buffer(incoming));
    const response = await handle(new Request(`http://127.0.0.1${incoming.url}`, { method: "POST", headers, body }));
    outgoing.writeHead(response.status, Object.fromEntries(response.headers)).end(await response.text());
  }, during);
}

/** A way to toril that can break. */
export class Relay {
  readonly #server: NetServer;
  readonly #pairs = new Set<[Socket, Socket]>();
  #answersToLose = 0;
  #port = 0;

  private constructor() {
    this.#server = createServer((here) => this.#join(here));
  }

  static async open(): Promise<Relay> {
    const relay = new Relay();
    relay.#server.listen(0, "127.0.0.1");
    await once(relay.#server, "listening");
    relay.#port = (relay.#server.address() as AddressInfo).port;
    return relay;
  }

  get client(): Client {
    return new Client(this.url, TOKEN);
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** Toril gets the next request, and the connection breaks instead of its answer. */
  loseAnswer(): void {
    this.#answersToLose += 1;
  }

  /** Break every connection. */
  cut(): void {
    for (const pair of this.#pairs) for (const socket of pair) socket.destroy();
  }

  /** Nothing comes through the connections that there are, and they stay open, until what this returns is called. */
  freeze(): () => void {
    const frozen = [...this.#pairs].flat();
    for (const socket of frozen) socket.unpipe().resume();
    return () => {
      for (const socket of frozen) socket.destroy();
    };
  }

  close(): void {
    this.#server.close();
    this.cut();
  }

  #join(here: Socket): void {
    const { hostname, port } = new URL(TORIL);
    const there = connect(Number(port), hostname);
    const pair: [Socket, Socket] = [here, there];
    this.#pairs.add(pair);
    for (const socket of pair) {
      socket.on("error", () => undefined);
      socket.on("close", () => {
        this.#pairs.delete(pair);
        for (const either of pair) either.destroy();
      });
    }
    here.pipe(there);
    if (this.#answersToLose > 0) {
      this.#answersToLose -= 1;
      there.once("data", () => here.destroy());
    } else {
      there.pipe(here);
    }
  }
}
