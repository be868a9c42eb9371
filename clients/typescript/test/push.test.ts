import assert from "node:assert/strict";
import { test } from "node:test";
import { JobFailed, Later, PushedJob, pushHandler, RetryIn, TorilError, Unrecoverable, type Policy } from "toril-client";
import { newQueue, serving, TORIL } from "./support.js";

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

const LONG_BACKOFF = { type: "fixed", delay: 600_000 } as const;

test("a pushed job is settled later, on either side of the answer", async () => {
  const queue = newQueue<string, { pages: number }>();
  const last: { pushed?: PushedJob<string, { pages: number }> } = {};
  const handle = pushHandler<string, { pages: number }>(TORIL, async (pushed) => {
    if (pushed.data === "at once") await pushed.complete({ pages: 1 });
    else if (pushed.data === "given back" && last.pushed?.job.id !== pushed.job.id) await pushed.release();
    else setTimeout(async () => {
      await pushed.extend(700_000);
      await pushed.progress(50);
      await pushed.complete({ pages: 2 });
    }, 5);
    last.pushed = pushed;
    return new Later(600_000);
  });
  await serving(handle, async (url) => {
    await queue.registerWorker(url, { timeoutMs: 20_000 });
    const jobs = await queue.addBulk(["at once", "given back", "later"].map((data) => ({ name: "n", data })));
    assert.deepEqual(await Promise.all(jobs.map(({ id }) => queue.result(id))), [{ pages: 1 }, { pages: 2 }, { pages: 2 }]);
    const [, givenBack, later] = await Promise.all(jobs.map(({ id }) => queue.get(id)));
    assert.deepEqual([later!.progress, givenBack!.attemptsMade], [50, 1]);
    await assert.rejects(last.pushed!.complete({ pages: 3 }), { code: "lease_lost", status: 409 });
    await queue.unregisterWorker();
  });
});

test("what is thrown, or told later, says how a pushed job goes on", async () => {
  for (const toldLater of [false, true]) {
    const queue = newQueue<string, string>();
    const calls: string[] = [];
    const handle = pushHandler<string, string>(TORIL, async (pushed) => {
      calls.push(pushed.data);
      const first = calls.filter((data) => data === pushed.data).length === 1;
      if (pushed.data === "retried" && !first) return "done";
      const error = pushed.data === "hopeless" ? new Unrecoverable("no ink") : new RetryIn(10);
      if (!toldLater) throw error;
      await pushed.fail(error);
      return new Later();
    });
    await serving(handle, async (url) => {
      await queue.registerWorker(url, { timeoutMs: 20_000 });
      const [hopeless, retried] = await queue.addBulk(
        ["hopeless", "retried"].map((data) => ({ name: "n", data, opts: { attempts: 2, backoff: LONG_BACKOFF } })),
      );
      await assert.rejects(queue.result(hopeless!.id), { name: "JobFailed", message: "no ink" });
      assert.equal(await queue.result(retried!.id), "done");
      assert.deepEqual(calls.sort(), ["hopeless", "retried", "retried"]);
      await queue.unregisterWorker();
    });
  }
});

test("where toril cannot be told that a job is hopeless, its attempt fails", async () => {
  const handle = pushHandler("http://127.0.0.1:9", () => {
    throw new Unrecoverable("no ink");
  });
  const response = await handle(post(JSON.stringify({ job, token: "t" })));
  assert.equal(response.status, 500);
  assert.match(await response.text(), /no ink/);
});

test("a policy says which answers are final", async () => {
  const tried = async (policy: Policy, status: number): Promise<number> => {
    const queue = newQueue();
    let calls = 0;
    const handle = (): Promise<Response> => {
      calls += 1;
      return Promise.resolve(PushedJob.failure("no", status));
    };
    await serving(handle, async (url) => {
      await queue.registerWorker(url, { policy, timeoutMs: 20_000 });
      const added = await queue.add("n", 1, { attempts: 2 });
      await assert.rejects(queue.result(added.id), JobFailed);
      await queue.unregisterWorker();
    });
    return calls;
  };
  const retrying: Policy = { retryOn: [429, "5xx"], retryAfter: true, maxRetryAfterMs: 1 };
  assert.equal(await tried(retrying, 503), 2);
  assert.equal(await tried(retrying, 404), 1);
  assert.equal(await tried({ failOn: ["4xx"] }, 410), 1);
  const refused = newQueue().registerWorker("http://127.0.0.1:4/x", { policy: { retryOn: [200] } });
  await assert.rejects(refused, (error) => error instanceof TorilError && error.code === "invalid_request");
});

test("answers by hand for later, and for another time", async () => {
  const later = PushedJob.later(2_500.4);
  const headers = [later.headers.get("toril-settle"), later.headers.get("toril-lease-ms")];
  assert.deepEqual([later.status, await later.text(), ...headers], [202, "", "later", "2500"]);
  assert.equal(PushedJob.failure("busy", 503, 1_000).headers.get("toril-retry-in"), "1000");
  assert.equal(PushedJob.failure("busy").headers.has("toril-retry-in"), false);
});
