// What the examples of web frameworks share: a plain server, and the registration of its address as a worker.

import { createServer, type RequestListener } from "node:http";
import { buffer } from "node:stream/consumers";
import { Client, type PushedJob } from "toril-client";

export const { TORIL = "http://127.0.0.1:8080", TOKEN = "", QUEUE = "orders", PORT = "3000", SECRET } = process.env;
/** With SECRET (`whsec_…`) the requests are signed, and others are refused. */
export const signing = SECRET ? { secrets: [SECRET] } : {};

export interface Order {
  readonly amount: number;
}
export interface Receipt {
  readonly charged: number;
}

export async function charge(pushed: PushedJob<Order, Receipt>): Promise<Receipt> {
  await pushed.log(`charging ${pushed.data.amount}`);
  await pushed.progress(50);
  return { charged: pushed.data.amount };
}

/** Serve on PORT until Ctrl-C, as the worker of QUEUE. */
export function listen(listener: RequestListener): void {
  createServer(listener).listen(Number(PORT), "127.0.0.1", async () => {
    const url = `http://127.0.0.1:${PORT}/charge`;
    await new Client(TORIL, TOKEN).queue(QUEUE).registerWorker(url, { concurrency: 10, ...signing });
    console.log("ready");
  });
}

/** The same for a web handler: in place of the platform that calls it. */
export function serve(handle: (request: Request) => Response | Promise<Response>): void {
  listen(async (incoming, outgoing) => {
    const headers = new Headers(incoming.headers as Record<string, string>);
    const body = new Uint8Array(await buffer(incoming));
    const response = await handle(new Request(`http://127.0.0.1${incoming.url}`, { method: "POST", headers, body }));
    outgoing.writeHead(response.status, Object.fromEntries(response.headers)).end(await response.text());
  });
}
