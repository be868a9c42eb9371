// A web handler that toril pushes the jobs of the queue `orders` to, on port 3000 until Ctrl-C.
// With SECRET (`whsec_…`) the requests are signed, and others are refused.

import { createServer } from "node:http";
import { buffer } from "node:stream/consumers";
import { Client, pushHandler } from "toril-client";

const { TORIL = "http://127.0.0.1:8080", TOKEN = "", QUEUE = "orders", PORT = "3000", SECRET } = process.env;
const signing = SECRET ? { secrets: [SECRET] } : {};

const handle = pushHandler<{ amount: number }, { charged: number }>(TORIL, async (pushed) => {
  await pushed.log(`charging ${pushed.data.amount}`);
  await pushed.progress(50);
  return { charged: pushed.data.amount };
}, signing);

// With Bun, Deno and most frameworks `handle` is all it takes: Bun.serve({ port: 3000, fetch: handle })
const server = createServer(async (incoming, outgoing) => {
  const headers = new Headers(incoming.headers as Record<string, string>);
  const request = new Request(`http://127.0.0.1${incoming.url}`, { method: "POST", headers, body: await buffer(incoming) });
  const response = await handle(request);
  outgoing.writeHead(response.status, Object.fromEntries(response.headers)).end(await response.text());
});
server.listen(Number(PORT), async () => {
  const url = `http://127.0.0.1:${PORT}/charge`;
  await new Client(TORIL, TOKEN).queue(QUEUE).registerWorker(url, { concurrency: 10, ...signing });
  console.log("ready");
});
