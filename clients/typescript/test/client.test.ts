import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";
import { Client, TorilError, type Queue } from "toril-client";
import { eventually, newQueue, Relay, sleep, TOKEN, toril, TORIL, working } from "./support.js";

test("jobs are added, read, listed and counted", async () => {
  const queue = newQueue<number | { a: number }>();
  const delayed = await queue.add("n", { a: 1 }, { delay: 60_000, priority: 3, backoff: { type: "fixed", delay: 10 } });
  assert.deepEqual((await queue.get(delayed.id)).data, { a: 1 });
  const jobs = await queue.addBulk([0, 1, 2].map((data) => ({ name: "n", data })));
  assert.equal(new Set(jobs.map((job) => job.id)).size, 3);
  const listed = await queue.jobs({ states: ["waiting"] });
  assert.deepEqual(listed.map((job) => job.data), [2, 1, 0]);
  assert.deepEqual((await queue.jobs({ states: ["waiting"], start: 1, length: 1 })).map((job) => job.data), [1]);
  assert.deepEqual(await queue.counts(), { waiting: 3, paused: 0, active: 0, completed: 0, failed: 0, delayed: 1 });
  assert.deepEqual(await queue.counts(["delayed"]), { delayed: 1 });
});

test("an id of the caller's own is kept, and added once", async () => {
  const queue = newQueue();
  const first = await queue.add("n", 1, { jobId: "order/7 ü" });
  const again = await queue.add("n", 2, { jobId: "order/7 ü" });
  assert.deepEqual([first.id, again.id], ["order/7 ü", "order/7 ü"]);
  assert.equal((await queue.get("order/7 ü")).data, 1);
});

test("a result that takes longer than it was waited for is a timeout", async () => {
  const queue = newQueue();
  const job = await queue.add("n", 1, { delay: 60_000 });
  await assert.rejects(queue.result(job.id, { waitMs: 100 }), { code: "timeout", message: /is delayed after 100 ms/ });
  await assert.rejects(queue.result(job.id, { waitMs: 0 }), { code: "timeout" });
});

test("a request that is lost does not end the process, but fails when its time is over", async () => {
  const script = `
    import { Client } from "toril-client";
    const later = setTimeout;
    globalThis.setTimeout = (done, ms) => later(done, Math.min(ms, 100));
    globalThis.fetch = (url, { signal }) =>
      new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    const adding = new Client("http://127.0.0.1:4", "t").queue("orders").addBulk([{ name: "n", data: 1 }]);
    await adding.catch((error) => console.log(error.code, error.message));
  `;
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "--eval", script]);
  assert.equal(stdout, "unreachable toril cannot be reached: no answer in time\n");
});

test("a wait for a result can be called off", async () => {
  const queue = newQueue();
  const job = await queue.add("n", 1, { delay: 60_000 });
  const calledOff = new AbortController();
  setTimeout(() => calledOff.abort(new Error("no longer")), 50);
  await assert.rejects(queue.result(job.id, { signal: calledOff.signal }), { message: "no longer" });
});

test("an endpoint is registered, listed and removed", async () => {
  const queue = newQueue();
  await queue.registerWorker("http://127.0.0.1:4/x", { timeoutMs: 100, concurrency: 2, headers: { "x-key": "1" } });
  assert.equal((await toril.workers())[queue.name], "http://127.0.0.1:4/x");
  await queue.unregisterWorker();
  assert.equal((await toril.workers())[queue.name], undefined);
});

const wrong: [string, (client: Client) => Promise<unknown>, string, number][] = [
  ["a job that is not there", (client) => client.queue("orders").get("404"), "job_not_found", 404],
  ["the result of one", (client) => client.queue("orders").result("404"), "job_not_found", 404],
  ["a queue's name that is too short", (client) => client.queue("ab").get("1"), "invalid_request", 400],
  ["a job without a name", (client) => client.queue("orders").add("", 1), "invalid_request", 400],
  ["a worker that is not there", (client) => client.queue("nobody").unregisterWorker(), "worker_not_found", 404],
  ["events of no queue", (client) => client.queue("ab").events().next(), "invalid_request", 400],
];
for (const [what, ask, code, status] of wrong) {
  test(`${what}: the error carries the server's code`, async () => {
    await assert.rejects(ask(toril), (error) => {
      assert.ok(error instanceof TorilError);
      assert.deepEqual([error.code, error.status], [code, status]);
      return true;
    });
    await assert.rejects(ask(new Client(TORIL, "wrong")), { name: "TorilError", code: "unauthorized", status: 401 });
  });
}

test("a server that is away is asked again, and then named", async () => {
  const relay = await Relay.open();
  relay.close();
  const began = Date.now();
  await assert.rejects(relay.client.queue("orders").add("n", 1), {
    code: "unreachable",
    status: 0,
    message: /cannot be reached/,
  });
  assert.ok(Date.now() - began > 500, "it was asked again");
});

test("what answers and is no toril is said to be none", async () => {
  await assert.rejects(new Client(`${TORIL}/nowhere/`, TOKEN).workers(), { code: "not_found", status: 404 });
  await assert.rejects(new Client(`${TORIL}/?`, TOKEN).workers(), { code: "bad_answer", status: 200 });
});

test("an add whose answer got lost is repeated and adds once", async () => {
  const relay = await Relay.open();
  try {
    const queue = newQueue(relay.client);
    relay.loseAnswer();
    relay.loseAnswer();
    const job = await queue.add("n", 1);
    assert.deepEqual((await queue.jobs()).map(({ id }) => id), [job.id]);
  } finally {
    relay.close();
  }
});

test("a deduplicated add whose answer got lost is not repeated", async () => {
  const relay = await Relay.open();
  try {
    const queue = newQueue(relay.client);
    relay.loseAnswer();
    await assert.rejects(queue.add("n", 1, { deduplication: { id: "x" } }), { code: "unreachable" });
    assert.equal((await queue.jobs()).length, 1);
  } finally {
    relay.close();
  }
});

test("a result is waited for through broken connections", async () => {
  const relay = await Relay.open();
  try {
    const there: Queue<number, string> = newQueue();
    const job = await there.add("n", 1);
    const waiting = relay.client.queue(there.name).result(job.id);
    for (let times = 0; times < 6; times += 1) {
      await sleep(50);
      relay.cut();
    }
    await working(there, () => "done", async () => assert.equal(await waiting, "done"));
  } finally {
    relay.close();
  }
});

test("events end with the signal's reason", async () => {
  const queue = newQueue();
  const ending = new AbortController();
  const heard: string[] = [];
  const listening = (async () => {
    for await (const event of queue.events({ since: "0", signal: ending.signal })) heard.push(event.name);
  })();
  await queue.add("n", 1);
  await eventually(() => heard.includes("waiting"));
  ending.abort(new Error("enough"));
  await assert.rejects(listening, { message: "enough" });
});
