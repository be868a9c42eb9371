import assert from "node:assert/strict";
import { test } from "node:test";
import { JobFailed } from "toril-client";
import { newQueue, toril, working } from "./support.js";

test("500 jobs over a socket, ten at a time, with progress, a failing one, events, and results waited for", async () => {
  const queue = newQueue<{ n: number }, { square: number }>();
  const seen = new Map<string, number>();
  let connections = 0;

  const listen = async (): Promise<void> => {
    let since = "0";
    for (;;) {
      connections += 1;
      let heard = 0;
      for await (const event of queue.events({ since })) {
        since = event.id;
        seen.set(event.name, (seen.get(event.name) ?? 0) + 1);
        if (event.name === "completed") assert.equal(typeof event.data.returnvalue.square, "number");
        if (seen.get("completed") === 499 && seen.get("failed") === 1) return;
        heard += 1;
        if (connections === 1 && heard === 900) break; // in the middle; go on from there
      }
    }
  };

  let running = 0;
  let most = 0;
  let full = () => {};
  const together = new Promise<void>((resolve) => (full = resolve)); // the first ten jobs wait for one another
  const listening = listen();
  const jobs = await queue.addBulk(Array.from({ length: 500 }, (_, n) => ({ name: "square", data: { n } })));
  await working(
    queue,
    async (task) => {
      running += 1;
      most = Math.max(most, running);
      if (running === 10) full();
      try {
        task.progress({ percent: 50 });
        task.log(`squaring ${task.data.n}`);
        await together;
        if (task.data.n === 13) throw new RangeError("unlucky");
        return { square: task.data.n ** 2 };
      } finally {
        running -= 1;
      }
    },
    async () => {
      for (const [n, job] of jobs.entries()) {
        if (n === 13) {
          await assert.rejects(queue.result(job.id), (error: unknown) => {
            assert.ok(error instanceof JobFailed);
            assert.deepEqual([error.message, error.code, error.status], ["unlucky", "job_failed", 422]);
            return true;
          });
        } else {
          assert.deepEqual(await queue.result(job.id), { square: n ** 2 });
        }
      }
      await listening;
    },
    { concurrency: 10 },
  );

  assert.equal(most, 10);
  assert.equal(connections, 2);
  const counted = ["added", "progress", "completed", "failed", "gap"].map((name) => seen.get(name) ?? 0);
  assert.deepEqual(counted, [500, 500, 499, 1, 0]);
  const failed = await queue.get(jobs[13]!.id);
  assert.equal(failed.failedReason, "unlucky");
  assert.match(failed.stacktrace![0]!, /^RangeError: unlucky\n +at /);
  assert.deepEqual((await queue.get(jobs[7]!.id)).progress, { percent: 50 });
  assert.deepEqual(await queue.logs(jobs[7]!.id), ["squaring 7"]);
  assert.equal((await queue.counts())["completed"], 499);
  assert.equal(await toril.queue<{ n: number }, { square: number }>(queue.name).result(jobs[2]!.id).then((r) => r.square), 4);
});
