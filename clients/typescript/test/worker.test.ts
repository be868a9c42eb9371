import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, JobFailed, RetryIn, TorilError, Unrecoverable, type Task } from "toril-client";
import { eventually, newQueue, Relay, sleep, TOKEN, toril, TORIL, working } from "./support.js";

const failedWith = (message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof JobFailed);
  assert.match(error.message, message);
  return true;
};

test("a handler says how a job goes on", async () => {
  const queue = newQueue<string>();
  const calls: string[] = [];
  const work = (task: Task<string>): unknown => {
    calls.push(task.data);
    switch (task.data) {
      case "hopeless":
        throw new Unrecoverable("no such card");
      case "later":
        if (calls.filter((call) => call === "later").length === 1) throw new RetryIn(20);
        return undefined;
      case "text":
        throw "no error at all";
      case "odd":
        return 10n;
      case "function":
        return () => 1;
      default:
        return [task.data, task.job.attemptsMade];
    }
  };
  await working(queue, work, async () => {
    const patient = { attempts: 5, backoff: { type: "fixed", delay: 60_000 } } as const;
    const hopeless = await queue.add("n", "hopeless", patient);
    await assert.rejects(queue.result(hopeless.id), failedWith(/^no such card$/));
    assert.equal(await queue.result((await queue.add("n", "later", patient)).id), null);
    await assert.rejects(queue.result((await queue.add("n", "text")).id), failedWith(/^no error at all$/));
    await assert.rejects(queue.result((await queue.add("n", "odd")).id), failedWith(/BigInt/));
    await assert.rejects(queue.result((await queue.add("n", "function")).id), failedWith(/function is no JSON/));
    assert.deepEqual(await queue.result((await queue.add("n", "plain")).id), ["plain", 0]);
  });
  assert.deepEqual(calls, ["hopeless", "later", "later", "text", "odd", "function", "plain"]);
});

test("progress and log lines of any shape arrive", async () => {
  const queue = newQueue<null, string>();
  const work = (task: Task<null>): string => {
    task.progress(undefined);
    task.log('"quoted" \n ü');
    assert.throws(() => task.progress(() => 1), TypeError);
    task.progress(["any", { json: 1 }]);
    return task.token;
  };
  await working(queue, work, async () => {
    const { id } = await queue.add("n", null);
    assert.match(await queue.result(id), /.+/);
    assert.deepEqual((await queue.get(id)).progress, ["any", { json: 1 }]);
    assert.deepEqual(await queue.logs(id), ['"quoted" \n ü']);
  });
});

test("a worker that is refused says why", async () => {
  const work = (): number => 1;
  const queue = newQueue();
  const refused: [Client, string, string, number][] = [
    [new Client(TORIL, "wrong ü"), queue.name, "unauthorized", 401],
    [toril, "ab", "invalid_request", 400],
    [new Client(`${TORIL}/nowhere`, TOKEN), queue.name, "not_found", 404],
  ];
  for (const [client, name, code, status] of refused) {
    await assert.rejects(client.queue(name).worker(work).run(), (error) => {
      assert.ok(error instanceof TorilError);
      assert.deepEqual([error.code, error.status], [code, status]);
      return true;
    });
  }
  for (const options of [{ concurrency: 0 }, { concurrency: 10_001 }, { concurrency: 1.5 }, { timeoutMs: -1 }]) {
    assert.throws(() => queue.worker(work, options), RangeError);
  }
});

test("stopping finishes the job at hand and takes no other", async () => {
  const queue = newQueue<number, string>();
  const [first, second] = await queue.addBulk([1, 2].map((data) => ({ name: "n", data })));
  let begun = 0;
  let goOn = (): void => undefined;
  const worker = queue.worker(async () => {
    begun += 1;
    await new Promise<void>((resolve) => (goOn = resolve));
    return "done";
  });
  const running = worker.run();
  await eventually(() => begun === 1);
  const stopped = worker.stop();
  await sleep(50);
  goOn();
  await Promise.all([stopped, running]);
  assert.equal(await queue.result(first!.id), "done");
  await assert.rejects(queue.result(second!.id, { waitMs: 0 }), { message: /is waiting after 0 ms/ });
  assert.equal(begun, 1);
});

test("stopping ends a worker that cannot connect, one that is just connecting, and one that never ran", async () => {
  const relay = await Relay.open();
  relay.close();
  const retries: TorilError[] = [];
  const worker = relay.client.queue("orders").worker(() => 1, { onRetry: (error) => retries.push(error) });
  const running = worker.run();
  await eventually(() => retries.length > 1);
  await worker.stop();
  await running;
  assert.equal(retries[0]?.code, "unreachable");
  for (let ms = 0; ms < 10; ms += 1) {
    const hasty = newQueue().worker(() => 1);
    const ran = hasty.run();
    await sleep(ms);
    await hasty.stop();
    await ran;
  }
  await newQueue().worker(() => 1).stop();
});

test("when the connection breaks the task is called off, and the job comes again", async () => {
  const relay = await Relay.open();
  const queue = newQueue<null, string>(relay.client);
  const tasks: Task<null>[] = [];
  const work = async (task: Task<null>): Promise<string> => {
    tasks.push(task);
    if (tasks.length > 1) return "from the second";
    await new Promise((resolve) => task.signal.addEventListener("abort", resolve));
    task.progress("too late");
    return "from the first";
  };
  const retries: string[] = [];
  const during = async (): Promise<void> => {
    const job = await queue.add("n", null);
    await eventually(() => tasks.length === 1);
    relay.cut();
    assert.equal(await queue.result(job.id), "from the second");
    assert.equal((tasks[0]!.signal.reason as TorilError).code, "connection_lost");
    assert.equal(tasks[1]!.signal.aborted, false);
    assert.equal((await queue.get(job.id)).progress, 0);
    assert.equal(tasks[1]!.job.attemptsMade, 0);
  };
  await working(queue, work, during, { onRetry: (error) => retries.push(error.code) });
  relay.close();
  assert.deepEqual(retries, ["connection_lost"]);
});

test("a job that takes longer than the worker allows is called off", async () => {
  const queue = newQueue<null>();
  let reason: unknown;
  const work = (task: Task<null>): Promise<null> =>
    new Promise((resolve) => {
      task.signal.addEventListener("abort", () => {
        reason = task.signal.reason;
        resolve(null);
      });
    });
  const during = async (): Promise<void> => {
    await assert.rejects(queue.result((await queue.add("n", null)).id), failedWith(/^Timeout$/));
    await eventually(() => reason);
    assert.equal((reason as TorilError).code, "timeout");
  };
  await working(queue, work, during, { timeoutMs: 100 });
});

test("a dead connection is noticed, and a quiet one is left alone", async () => {
  const relay = await Relay.open();
  const queue = newQueue<null, string>(relay.client);
  const retries: string[] = [];
  const during = async (): Promise<void> => {
    assert.equal(await queue.result((await queue.add("n", null)).id), "done");
    await sleep(500);
    assert.deepEqual(retries, [], "the server answers when asked");
    const bury = relay.freeze();
    await eventually(() => retries.length > 0);
    assert.match(retries[0]!, /silent/);
    bury(); // the server would take 40 s to notice
    assert.equal(await queue.result((await queue.add("n", null)).id), "done");
  };
  await working(queue, () => "done", during, { heartbeatMs: 100, onRetry: (error) => retries.push(error.message) });
  relay.close();
});

test("a result that the server would not take fails the attempt, not the connection", async () => {
  const queue = newQueue<string, string>();
  const retries: string[] = [];
  const work = (task: Task<string>): string => {
    assert.throws(() => task.log("x".repeat(2000)), { code: "message_too_large" });
    if (task.data === "throw") throw new Unrecoverable("ü".repeat(1000));
    return task.data.repeat(100);
  };
  const during = async (): Promise<void> => {
    for (const data of ["ten bytes!", "throw"]) {
      await assert.rejects(queue.result((await queue.add("n", data)).id), failedWith(/more than 1000 bytes/));
    }
    assert.equal((await queue.result((await queue.add("n", "€€€")).id)).length, 300);
  };
  await working(queue, work, during, { maxMessageBytes: 1000, onRetry: (error) => retries.push(error.message) });
  assert.deepEqual(retries, []);
});
