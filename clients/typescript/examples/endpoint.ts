// A web handler that toril pushes the jobs of the queue `orders` to, on port 3000 until Ctrl-C.

import { createServer } from "node:http";
import { text } from "node:stream/consumers";
import { Client, pushHandler } from "toril-client";

const { TORIL = "http://127.0.0.1:8080", TOKEN = "", QUEUE = "orders", PORT = "3000" } = process.env;

const handle = pushHandler<{ amount: number }, { charged: number }>(TORIL, async (pushed) => {
  await pushed.log(`charging ${pushed.data.amount}`);
  await pushed.progress(50);
  return { charged: pushed.data.amount };
});

// With Bun, Deno and most frameworks `handle` is all it takes: Bun.serve({ port: 3000, fetch: handle })
const server = createServer(async (incoming, outgoing) => {
  const request = new Request(`http://127.0.0.1${incoming.url}`, { method: "POST", body: await text(incoming) });
  const response = await handle(request);
  outgoing.writeHead(response.status, Object.fromEntries(response.headers)).end(await response.text());
});
server.listen(Number(PORT), async () => {
  await new Client(TORIL, TOKEN).queue(QUEUE).registerWorker(`http://127.0.0.1:${PORT}/charge`, { concurrency: 10 });
  console.log("ready");
});
