import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { JobFailed, PushedJob, pushHandler } from "toril-client";
import { newQueue, TORIL } from "./support.js";

/** An HTTP server around a web handler, for as long as `during` takes. */
async function serving(
  handle: (request: Request) => Promise<Response>, during: (url: string) => Promise<void>,
): Promise<void> {
  const server = createServer(async (incoming, outgoing) => {
    const request = new Request(`http://127.0.0.1${incoming.url}`, { method: "POST", body: await text(incoming) });
    const response = await handle(request);
    outgoing.writeHead(response.status, Object.fromEntries(response.headers)).end(await response.text());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  try {
    await during(`http://127.0.0.1:${(server.address() as AddressInfo).port}/work`);
  } finally {
    server.close();
    server.closeAllConnections();
  }
}

test("a pushed job is read, reported on and answered", async () => {
  const queue = newQueue<{ a: number }, unknown>();
  let late: PushedJob<{ a: number }> | undefined;
  const handle = pushHandler<{ a: number }>(TORIL, async (pushed) => {
    assert.equal(pushed.queue, queue.name);
    await pushed.log(`a is ${pushed.data.a}`);
    await pushed.progress({ percent: 50 });
    late = pushed;
    if (pushed.data.a < 0) throw new RangeError("too small");
    return pushed.data.a === 0 ? undefined : { twice: pushed.data.a * 2 };
  });
  await serving(handle, async (url) => {
    await queue.registerWorker(url);
    const job = await queue.add("n", { a: 21 });
    assert.deepEqual(await queue.result(job.id), { twice: 42 });
    assert.deepEqual((await queue.get(job.id)).progress, { percent: 50 });
    assert.deepEqual(await queue.logs(job.id), ["a is 21"]);
    assert.equal(await queue.result((await queue.add("n", { a: 0 })).id), null);
    const failing = await queue.add("n", { a: -1 });
    await assert.rejects(queue.result(failing.id), JobFailed);
    const failed = await queue.get(failing.id);
    assert.equal(failed.failedReason, "Internal Server Error");
    assert.match(failed.stacktrace![0]!, /RangeError: too small/);
    await assert.rejects(late!.progress(100), { code: "unauthorized", status: 401 });
    await queue.unregisterWorker();
  });
});

const job = { id: "1", name: "n", data: null, queueQualifiedName: "a:b:orders" };
const post = (body: string | Uint8Array<ArrayBuffer>): Request => new Request("http://127.0.0.1/", { method: "POST", body });

test("a pushed job can be read and answered by hand", async () => {
  const pushed = await PushedJob.from(post(JSON.stringify({ job, token: "t" })), TORIL);
  assert.deepEqual([pushed.job.id, pushed.data, pushed.queue, pushed.token], ["1", null, "orders", "t"]);
  const done = PushedJob.result({ ok: 1 });
  assert.deepEqual([done.status, done.headers.get("content-type"), await done.text()], [200, "application/json", '{"ok":1}']);
  const failed = PushedJob.failure("no", 402);
  assert.deepEqual([failed.status, await failed.text()], [402, "no"]);
});

test("what is no pushed job is refused", async () => {
  const bodies = [
    "", "[]", "{}", "null", "1", '{"job": {}, "token": "t"}', Uint8Array.of(0xff),
    JSON.stringify({ job, token: 1 }),
    JSON.stringify({ job, token: undefined }),
    JSON.stringify({ job: { ...job, id: 1 }, token: "t" }),
    JSON.stringify({ job: { ...job, queueQualifiedName: "orders" }, token: "t" }),
    JSON.stringify({ job: { ...job, queueQualifiedName: "bull:" }, token: "t" }),
    JSON.stringify({ job: { ...job, data: undefined }, token: "t" }),
  ];
  const handle = pushHandler(TORIL, () => assert.fail("nothing to work on"));
  for (const body of bodies) {
    await assert.rejects(PushedJob.from(post(body), TORIL), { code: "invalid_request", status: 400 });
    assert.equal((await handle(post(body))).status, 400);
  }
});
