import assert from "node:assert/strict";
import { request as httpRequest } from "node:http";
import { test } from "node:test";
import type { Handler as AwsHandler, ALBEvent, ALBResult, APIGatewayProxyEvent, APIGatewayProxyEventV2, APIGatewayProxyResult } from "aws-lambda";
import express, { type RequestHandler } from "express";
import { Hono } from "hono";
import { JobFailed, Later, RetryIn, Unrecoverable, type PushedJob, type PushOptions, type Work } from "toril-client";
import { expressHandler } from "toril-client/express";
import { fetchHandler } from "toril-client/fetch";
import { honoHandler } from "toril-client/hono";
import { lambdaHandler, type LambdaEvent } from "toril-client/lambda";
import { nextHandler } from "toril-client/next";
import { listening, newQueue, serving, TORIL } from "./support.js";

const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER = `whsec_${btoa("o".repeat(24))}`;
const LONG_BACKOFF = { type: "fixed", delay: 600_000 } as const;

type Data = { do: string };
type Serve = (work: Work<Data, string>, options: PushOptions, during: (url: string) => Promise<void>) => Promise<void>;

/** Events as AWS makes them of a request. That their types go with the handler's is checked by the compiler. */
const EVENTS: Record<string, (headers: Record<string, string>, body: Uint8Array) => LambdaEvent> = {
  "function URL": (headers, body) =>
    ({ version: "2.0", headers, body: Buffer.from(body).toString("base64"), isBase64Encoded: true }) as unknown as APIGatewayProxyEventV2,
  "REST API": (headers, body) => {
    const upper = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toUpperCase(), value]));
    return { headers: upper, body: Buffer.from(body).toString(), isBase64Encoded: false } as unknown as APIGatewayProxyEvent;
  },
  "load balancer": (headers, body) => {
    const multiValueHeaders = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, [value]]));
    return { multiValueHeaders, body: Buffer.from(body).toString(), isBase64Encoded: false } as unknown as ALBEvent;
  },
};

/** A bridge from HTTP to a Lambda function. */
function lambda(event: (headers: Record<string, string>, body: Uint8Array) => LambdaEvent): Serve {
  return (work, options, during) => {
    const handler = lambdaHandler(TORIL, work, options);
    const typed: [AwsHandler<APIGatewayProxyEventV2>, AwsHandler<APIGatewayProxyEvent, APIGatewayProxyResult>, AwsHandler<ALBEvent, ALBResult>] =
      [handler, handler, handler];
    assert.equal(typed.length, 3);
    return serving(async (request) => {
      const answer = await handler(event(Object.fromEntries(request.headers), new Uint8Array(await request.arrayBuffer())));
      return new Response(answer.body, { status: answer.statusCode, headers: answer.headers });
    }, during);
  };
}

function behind(...middleware: RequestHandler[]): Serve {
  return (work, options, during) => {
    const app = express();
    if (middleware.length > 0) app.use(...middleware);
    app.post("/work", expressHandler(TORIL, work, options));
    return listening(app, during);
  };
}

const keepBytes = express.json({
  type: () => true, verify: (request, _, bytes) => Object.assign(request, { rawBody: bytes }), limit: "1mb",
});

const SERVERS: Record<string, Serve> = {
  "Express": behind(),
  "Express behind a parser that does not parse this": behind(express.json()),
  "Express with raw bodies": behind(express.raw({ type: () => true, limit: "1mb" })),
  "Express with kept bytes": behind(keepBytes),
  "node:http": (work, options, during) => listening(expressHandler(TORIL, work, options), during),
  "Hono": (work, options, during) => {
    const app = new Hono();
    app.post("/work", honoHandler(TORIL, work, options));
    return serving((request) => app.fetch(request), during);
  },
  "Next.js": (work, options, during) => serving(nextHandler(TORIL, work, options), during),
  "Cloudflare": (work, options, during) => {
    const waiting: Promise<unknown>[] = [];
    const worker = {
      fetch: fetchHandler((env: { TORIL: string }) => ({ url: env.TORIL, ...options }), (pushed: PushedJob<Data, string>, env, context) => {
        assert.equal(env.TORIL, TORIL);
        context.waitUntil(Promise.resolve());
        return work(pushed);
      }),
    };
    return serving((request) => worker.fetch(request, { TORIL }, { waitUntil: (work) => waiting.push(work) }), during);
  },
  ...Object.fromEntries(Object.entries(EVENTS).map(([name, event]) => [`Lambda: ${name}`, lambda(event)])),
};

for (const [name, serve] of Object.entries(SERVERS)) {
  test(`what a function does says how its job goes on (${name})`, async () => {
    const queue = newQueue<Data, string>();
    const calls: string[] = [];
    const kept: PushedJob<Data, string>[] = [];
    const work: Work<Data, string> = async (pushed) => {
      calls.push(pushed.data.do);
      await pushed.log("half");
      await pushed.progress(50);
      switch (pushed.data.do) {
        case "throw": throw new RangeError("unlucky");
        case "hopeless": throw new Unrecoverable("no such card");
        case "again":
          if (calls.filter((call) => call === "again").length === 1) throw new RetryIn(10);
          return "again";
        case "later":
          kept.push(pushed);
          await pushed.complete("by its token");
          return new Later(600_000);
        default: return `did ${pushed.data.do}`;
      }
    };
    await serve(work, { secrets: [OTHER, SECRET] }, async (url) => {
      await queue.registerWorker(url, { timeoutMs: 20_000, secrets: [SECRET] });
      const done = await queue.add("n", { do: "ü" });
      assert.equal(await queue.result(done.id), "did ü");
      assert.equal((await queue.get(done.id)).progress, 50);
      assert.deepEqual(await queue.logs(done.id), ["half"]);
      const thrown = await queue.add("n", { do: "throw" });
      await assert.rejects(queue.result(thrown.id), JobFailed);
      const failed = await queue.get(thrown.id);
      assert.equal(failed.failedReason, "Internal Server Error");
      assert.match(failed.stacktrace![0]!, /RangeError: unlucky/);
      const hopeless = await queue.add("n", { do: "hopeless" }, { attempts: 5, backoff: LONG_BACKOFF });
      await assert.rejects(queue.result(hopeless.id), { message: "no such card" });
      assert.equal((await queue.get(hopeless.id)).attemptsMade, 1);
      const again = await queue.add("n", { do: "again" }, { attempts: 2, backoff: LONG_BACKOFF });
      assert.equal(await queue.result(again.id), "again");
      assert.equal(await queue.result((await queue.add("n", { do: "later" })).id), "by its token");
      await assert.rejects(kept[0]!.complete("again"), { code: "lease_lost" });
      await queue.unregisterWorker();
    });
    assert.deepEqual(calls, ["ü", "throw", "hopeless", "again", "again", "later"]);
  });

  test(`what toril did not sign, and what is too large, fails its job (${name})`, async () => {
    const queue = newQueue<Data, string>();
    const work = (): string => assert.fail("nothing to work on");
    await serve(work, { secrets: [OTHER], maxBodyBytes: 5000 }, async (url) => {
      await queue.registerWorker(url, { timeoutMs: 20_000, secrets: [SECRET] });
      const wrong = await queue.add("n", { do: "x" });
      await assert.rejects(queue.result(wrong.id), { message: "Unauthorized" });
      assert.match((await queue.get(wrong.id)).stacktrace![0]!, /the request's signature is wrong/);
      const large = await queue.add("n", { do: "x".repeat(5000) });
      await assert.rejects(queue.result(large.id), JobFailed);
      assert.match((await queue.get(large.id)).stacktrace![0]!, /the body is larger than 5000 bytes/);
      await queue.unregisterWorker();
      const stranger = await fetch(url, { method: "POST", body: "{}" });
      assert.deepEqual([stranger.status, await stranger.text()], [401, "the request is not signed"]);
    });
  });
}

test("a body that a parser has used up is said to be", async () => {
  for (const serve of [behind(express.json({ type: () => true })), behind(express.text({ type: () => true }))]) {
    await serve(() => "never", { secrets: [SECRET] }, async (url) => {
      const response = await fetch(url, { method: "POST", body: "{}" });
      assert.equal(response.status, 500);
      assert.match(await response.text(), /put this handler before express\.json\(\)/);
    });
  }
  const app = new Hono();
  app.use(async (context, next) => {
    await context.req.json();
    await next();
  });
  app.post("/work", honoHandler(TORIL, () => "never", { secrets: [SECRET] }));
  const response = await app.request("/work", { method: "POST", body: "{}" });
  assert.deepEqual([response.status, /was read before/.test(await response.text())], [500, true]);
});

test("a body without a length is read up to the limit, and one that breaks off is no job", async () => {
  await listening(expressHandler(TORIL, () => "never", { maxBodyBytes: 1000 }), async (url) => {
    const status = await new Promise((resolve, reject) => {
      const endless = httpRequest(url, { method: "POST" }, (response) => {
        resolve(response.statusCode);
        clearInterval(writing);
        endless.destroy();
      }).on("error", reject);
      const writing = setInterval(() => endless.write("x".repeat(500)), 1);
    });
    assert.equal(status, 413);
  });
  const endless = new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(500)) });
  const request = new Request("http://127.0.0.1/", { method: "POST", body: endless, duplex: "half" } as RequestInit);
  const response = await nextHandler(TORIL, () => "never", { maxBodyBytes: 1000 })(request);
  assert.equal(response.status, 413);
});

test("what is no secret, no Base64 or no body is said to be", async () => {
  const bad = { secrets: ["whsec_hunter2!"] };
  for (const make of [expressHandler, honoHandler, nextHandler, lambdaHandler]) {
    assert.throws(() => make(TORIL, () => 1, bad), RangeError);
  }
  const context = { waitUntil: () => undefined };
  const unset = await fetchHandler(() => ({ url: TORIL, ...bad }), () => 1)(new Request("http://127.0.0.1/"), {}, context);
  assert.deepEqual([unset.status, /a secret is whsec_/.test(await unset.text())], [500, true]);
  const handler = lambdaHandler(TORIL, () => 1);
  for (const event of [{}, { body: null }, { headers: null, body: "%", isBase64Encoded: true }]) {
    assert.equal((await handler(event)).statusCode, 400);
  }
});
