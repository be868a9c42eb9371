import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { Client } from "toril-client";
import { eventually, newQueue, Relay } from "./support.js";

test("events go on where they were when the connection breaks", async () => {
  const relay = await Relay.open();
  try {
    const queue = newQueue<number>(relay.client);
    const added: string[] = [];
    const listening = (async () => {
      for await (const event of queue.events({ since: "0" })) {
        if (event.name === "added") added.push(event.data.jobId);
        if (added.length === 4) return;
      }
    })();
    const ids: string[] = [];
    for (let n = 0; n < 4; n += 1) {
      if (n > 0) relay.cut();
      ids.push((await queue.add("n", n)).id);
      await eventually(() => added.length === n + 1);
    }
    await listening;
    assert.deepEqual(added, ids);
  } finally {
    relay.close();
  }
});

/** A server that answers with one script after the other, and what it was asked with. */
async function scripted(
  ...scripts: ((response: ServerResponse) => void)[]
): Promise<{ client: Client; resumed: (string | undefined)[]; close: () => void }> {
  const resumed: (string | undefined)[] = [];
  const server = createServer((request: IncomingMessage, response) => {
    resumed.push(request.headers["last-event-id"] as string | undefined);
    scripts.shift()?.(response);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const close = (): void => {
    server.close();
    server.closeAllConnections();
  };
  return { client: new Client(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, "x"), resumed, close };
}

test("events are put together however the stream is written and cut", async () => {
  const text = ': hello\r\rretry: 5\n\nid: 1-0\r\nevent:added\r\ndata: {"jobId":\r\ndata: "ü€😀"}\r\n\r\n'
    + 'unknown\nid: 2-0\n\nevent: removed\rdata: {"jobId": "b"}\r\rid: 3-0\nevent: paused\ndata: {}\n\n';
  const bytes = Buffer.from(text);
  const expected = [
    { id: "1-0", name: "added", data: { jobId: "ü€😀" } },
    { id: "2-0", name: "removed", data: { jobId: "b" } },
    { id: "3-0", name: "paused", data: {} },
  ];
  for (const size of [1, 2, 3, 7, bytes.length]) {
    const { client, close } = await scripted(async (response) => {
      for (let at = 0; at < bytes.length; at += size) {
        await new Promise((resolve) => response.write(bytes.subarray(at, at + size), resolve));
        await new Promise((resolve) => setImmediate(resolve));
      }
    });
    const seen: unknown[] = [];
    for await (const event of client.queue("orders").events()) {
      seen.push(event);
      if (seen.length === 3) break;
    }
    close();
    assert.deepEqual(seen, expected);
  }
});

test("a half event is dropped, and a server that is away is asked again from behind the last whole one", async () => {
  const { client, resumed, close } = await scripted(
    (response) => response.end("id: 5-0\n\n"),
    (response) => response.end('id: 7-0\nevent: paused\ndata: {}\n\nid: 8-0\nevent: resumed\ndata: {'),
    (response) => response.writeHead(503, { "toril-code": "shutting_down" }).end(),
    (response) => response.destroy(),
    (response) => response.end('id: 8-0\nevent: resumed\ndata: {}\n\n'),
    (response) => response.writeHead(400, { "toril-code": "invalid_request" }).end("Invalid event id"),
  );
  const seen: string[] = [];
  const listening = (async () => {
    for await (const event of client.queue("orders").events()) seen.push(`${event.id} ${event.name}`);
  })();
  await assert.rejects(listening, { code: "invalid_request", message: "Invalid event id" });
  close();
  assert.deepEqual(seen, ["7-0 paused", "8-0 resumed"]);
  assert.deepEqual(resumed, [undefined, "5-0", "7-0", "7-0", "7-0", "8-0"]);
});
