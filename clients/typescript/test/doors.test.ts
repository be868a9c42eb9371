import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, NotQueued, ProxyClient, TorilError, type Job } from "toril-client";

// A toril with the targets taking, refusing and paused, and the upstream /api.
const { DOORS = "", TOKEN = "" } = process.env;
const client = new Client(DOORS, TOKEN);
const LATER = 3_600_000;

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

test("jobs are searched, and changed many at once or one by one", async () => {
  const queue = client.queue<{ of: number }>(`ts-${crypto.randomUUID()}`);
  const jobs = await queue.addBulk(Array.from({ length: 120 }, (_, n) => ({ name: "n", data: { of: n % 3 }, opts: { delay: LATER } })));
  const found = await all(queue.search("data.of = 1", { states: ["delayed"] }));
  const ids = (of: Iterable<Job<{ of: number }>>): string[] => Array.from(of, (job) => job.id).sort();
  assert.deepEqual(ids(found), ids(jobs.filter((_, n) => n % 3 === 1)));
  const tried = await queue.bulk("promote", { where: "data.of = 1", states: ["delayed"], dryRun: true });
  assert.deepEqual([tried.matched, tried.done, (await queue.counts())["waiting"]], [40, 40, 0]);
  const done = await queue.bulk("promote", { where: "data.of = 1", states: ["delayed"] });
  assert.deepEqual([done.matched, done.done, done.refused, (await queue.counts())["waiting"]], [40, 40, 0, 40]);
  const refused = await queue.bulk("retry", { ids: [jobs[0]!.id, jobs[1]!.id] });
  assert.deepEqual([refused.refused, refused.failed[0]!.code], [2, "wrong_state"]);
  await assert.rejects(all(queue.search("data.of =")), { code: "invalid_where" });
  await queue.promote(jobs[0]!.id);
  assert.equal((await queue.counts())["waiting"], 41);
  await assert.rejects(queue.retry(jobs[0]!.id), { code: "wrong_state" });
  await queue.pause();
  await queue.resume();
  await queue.remove(jobs[0]!.id);
  await assert.rejects(queue.get(jobs[0]!.id), { code: "job_not_found" });
});

test("groups are limited, paused and drained", async () => {
  const queue = client.queue(`ts-${crypto.randomUUID()}`);
  const acme = "acme/ü 1";
  const limits = { concurrency: 2, limit: { max: 10, duration: 500 }, weight: 3 };
  const set = await queue.groups.set(acme, { ...limits, maxWaiting: 3 });
  assert.deepEqual([set.id, set.limits], [acme, { ...limits, max_waiting: 3 }]);
  for (let n = 0; n < 3; n += 1) await queue.add("n", n, { group: { id: acme, priority: 7 } });
  await assert.rejects(queue.add("n", 3, { group: { id: acme } }), { code: "group_full", status: 429 });
  const job = await queue.add("n", 4, { group: { id: 7 } });
  assert.deepEqual(job.opts.group, { id: 7 });
  assert.deepEqual((await all(queue.groups.list())).map((group) => group.id), ["7", acme]);
  assert.deepEqual((await all(queue.groups.list("acme*"))).map((group) => group.waiting), [3]);
  assert.equal((await queue.groups.get(7)).waiting, 1);
  await queue.groups.pause(acme);
  assert.equal((await queue.groups.get(acme)).paused, true);
  await queue.groups.resume(acme);
  assert.equal((await queue.groups.get(acme)).paused, false);
  assert.equal((await queue.groups.set(acme, { paused: true })).paused, true);
  assert.equal(await queue.groups.drain(acme), 3);
  await queue.groups.reset(acme);
  const { waiting, paused, limits: none, held_until } = await queue.groups.get(acme);
  assert.deepEqual([waiting, paused, held_until], [0, false, null]);
  assert.deepEqual(none, { concurrency: null, limit: null, weight: null, max_waiting: null });
  await assert.rejects(queue.groups.set(acme, { weight: 1001 }), { code: "invalid_request", status: 400 });
});

test("a delivery is followed to its end, or cancelled", async () => {
  const labels = { test: crypto.randomUUID() };
  const envelope = { body: { order: 1 }, path: "/invoices", labels, group: { id: "acme", priority: 3 }, idempotencyKey: labels.test };
  const sent = await client.deliveries.enqueue("taking", envelope);
  assert.equal((await client.deliveries.enqueue("taking", envelope)).job_id, sent.job_id);
  const ended = await client.deliveries.wait(sent.job_id);
  assert.deepEqual([ended.status, ended.attempts_made, ended.response!.status], ["delivered", 1, 200]);
  assert.match(await client.deliveries.responseBody(sent.job_id), /"\/taking\/invoices"/);
  assert.deepEqual((await client.deliveries.get(sent.job_id)).labels, labels);
  assert.deepEqual((await client.deliveries.get(sent.job_id)).group, { id: "acme", priority: 3 });
  const listed = await all(client.deliveries.list({ target: "taking", status: ["delivered", "queued"], labels }));
  assert.deepEqual(listed.map((one) => one.job_id), [sent.job_id]);
  const waiting = await client.deliveries.enqueue("taking", { delayMs: LATER });
  await assert.rejects(client.deliveries.wait(waiting.job_id, { waitMs: 1 }), { code: "timeout" });
  assert.equal((await client.deliveries.cancel(waiting.job_id)).status, "cancelled");
});

test("dead letters are listed, replayed and purged", async () => {
  const labels = { test: crypto.randomUUID() };
  const sent: string[] = [];
  for (let n = 0; n < 3; n += 1) sent.push((await client.deliveries.enqueue("refusing", { body: n, labels })).job_id);
  for (const id of sent) assert.equal((await client.deliveries.wait(id)).reason, "refused");
  const dead = await all(client.deliveries.deadLetters("refusing", { reason: "refused", labels }));
  assert.deepEqual(dead.map((one) => one.job_id).sort(), [...sent].sort());
  const tried = await client.deliveries.replay("refusing", { labels, dryRun: true });
  assert.deepEqual([tried.matched, tried.replayed], [3, 0]);
  assert.equal((await client.deliveries.replay("refusing", { jobIds: sent.slice(0, 2), replayKey: "new" })).replayed, 2);
  let attempts = 0;
  while (attempts < 2) attempts = (await client.deliveries.get(sent[0]!)).attempts.length;
  await client.deliveries.purge("refusing", sent[2]!);
  assert.ok(!(await all(client.deliveries.deadLetters("refusing", { labels }))).some((one) => one.job_id === sent[2]));
});

test("targets are shown and paused", async () => {
  assert.deepEqual((await client.targets.list()).map((target) => target.name).sort(), ["paused", "refusing", "taking"]);
  await client.targets.pause("paused");
  assert.equal((await client.targets.get("paused")).paused, true);
  const sent = await client.deliveries.enqueue("paused");
  assert.equal((await client.deliveries.get(sent.job_id)).status, "queued");
  await client.targets.resume("paused");
  assert.equal((await client.deliveries.wait(sent.job_id)).status, "delivered");
  await assert.rejects(client.targets.get("nowhere"), { code: "unknown_target" });
});

test("a proxied request is submitted, waited for and cancelled", async () => {
  const proxy = new ProxyClient(DOORS, { headers: { "x-b": "c" } });
  const id = await proxy.submit("/api/teapot", { method: "POST", body: "{}" });
  assert.deepEqual(await proxy.wait(id).then(({ status }) => status), "completed");
  const answer = await proxy.response(id);
  assert.deepEqual([answer.status, answer.headers.get("x-pot"), await answer.text()], [418, "short and stout", "tip me over"]);
  const running = await proxy.submit("/api/never");
  await assert.rejects(proxy.wait(running, { waitMs: 0 }), { code: "timeout" });
  await assert.rejects(proxy.response(running), { status: 404 });
  await proxy.cancel(running);
  await assert.rejects(proxy.get(running), { status: 404, code: "not_found" });
  const streamed = new ReadableStream({
    start(controller) {
      controller.enqueue(new TextEncoder().encode("of no length"));
      controller.close();
    },
  });
  await assert.rejects(proxy.submit("/api/teapot", { method: "POST", body: streamed, duplex: "half" } as RequestInit), (error) => {
    assert.ok(error instanceof NotQueued);
    assert.equal(error.response.status, 418);
    return true;
  });
  await assert.rejects(new ProxyClient("http://127.0.0.1:9").submit("/api"), (error) => {
    assert.ok(error instanceof TorilError);
    return error.code === "unreachable";
  });
});
