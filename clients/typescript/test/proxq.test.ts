import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import OpenAI from "openai";
import { proxqFetch } from "toril-client";
import { eventually } from "./support.js";

interface Asked {
  readonly what: string;
  readonly authorization: string | undefined;
  readonly chunked: boolean;
  readonly body: string;
}

const SOURCE = { "content-type": "application/json", "x-proxq-source": "proxq" };

/** Something that answers as proxq does: it holds no question. What it was asked is in `asked`. */
async function serving(
  statuses: (object | number)[], during: (url: string, asked: Asked[]) => Promise<void>,
  direct?: (response: ServerResponse) => void,
): Promise<void> {
  const asked: Asked[] = [];
  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = "";
    for await (const part of request) body += String(part);
    const { authorization, "transfer-encoding": coding } = request.headers;
    asked.push({ what: `${request.method} ${request.url?.split("?")[0]}`, authorization, chunked: coding === "chunked", body });
    if (request.method === "POST" && direct !== undefined) direct(response);
    else if (request.method === "POST") response.writeHead(202, SOURCE).end('{"jobId":"j 1"}');
    else if (request.method === "DELETE") response.writeHead(200, SOURCE).end('{"status":"cancelled"}');
    else if (request.url === "/__jobs/j%201/content") {
      response.writeHead(200, { "content-type": "application/json", "x-request-id": "req_42" }).end(completion("late"));
    } else {
      const status = statuses.length > 1 ? statuses.shift() : statuses[0];
      if (typeof status === "number") response.writeHead(status, SOURCE).end("{}");
      else response.writeHead(200, SOURCE).end(JSON.stringify(status));
    }
  }
  const server = createServer((request, response) => void answer(request, response));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  try {
    await during(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, asked);
  } finally {
    server.close();
    server.closeAllConnections();
  }
}

function completion(content: string): string {
  return JSON.stringify({
    id: "c1", object: "chat.completion", created: 1, model: "m",
    choices: [{ index: 0, message: { role: "assistant", content }, finish_reason: "stop" }],
  });
}

function client(url: string, timeout?: number): OpenAI {
  return new OpenAI({
    apiKey: "sk-1", baseURL: `${url}/v1`, maxRetries: 0, fetch: proxqFetch(), ...(timeout !== undefined && { timeout }),
  });
}

const HELLO = { model: "m", messages: [{ role: "user", content: "hello" }] } as const;

test("a job is waited for, and its answer returned", () =>
  serving([{ status: "queued" }, 503, { status: "running" }, { status: "completed" }], async (url, asked) => {
    const { data, response } = await client(url).chat.completions.create({ ...HELLO, messages: [...HELLO.messages] }).withResponse();
    assert.equal(data.choices[0]?.message.content, "late");
    assert.equal(response.headers.get("x-request-id"), "req_42");
    assert.deepEqual(asked.map(({ what }) => what), [
      "POST /v1/chat/completions", ...Array<string>(4).fill("GET /__jobs/j%201"), "GET /__jobs/j%201/content",
    ]);
    assert.deepEqual(new Set(asked.map(({ authorization }) => authorization)), new Set(["Bearer sk-1"]));
    assert.equal(asked[0]?.chunked, false);
  }));

for (const status of [{ status: "failed", error: "refused" }, 404]) {
  test(`a job without an answer is a connection error: ${JSON.stringify(status)}`, () =>
    serving([status], async (url, asked) => {
      const creating = client(url).chat.completions.create({ ...HELLO, messages: [...HELLO.messages] });
      await assert.rejects(creating, OpenAI.APIConnectionError);
      assert.ok(asked.every(({ what }) => !what.startsWith("DELETE")));
    }));
}

test("a timeout cancels the job", () =>
  serving([{ status: "running" }], async (url, asked) => {
    const creating = client(url, 500).chat.completions.create({ ...HELLO, messages: [...HELLO.messages] });
    await assert.rejects(creating, OpenAI.APIConnectionTimeoutError);
    await eventually(() => asked.some(({ what }) => what === "DELETE /__jobs/j%201"));
  }));

test("giving up cancels the job", () =>
  serving([{ status: "running" }], async (url, asked) => {
    const calledOff = new AbortController();
    const creating = client(url).chat.completions.create(
      { ...HELLO, messages: [...HELLO.messages] }, { signal: calledOff.signal },
    );
    await Promise.all([
      assert.rejects(creating, OpenAI.APIUserAbortError),
      eventually(() => asked.length > 1).then(() => calledOff.abort()),
    ]);
    await eventually(() => asked.some(({ what }) => what === "DELETE /__jobs/j%201"));
  }));

test("a job that takes longer than waitMs is cancelled", () =>
  serving([{ status: "running" }], async (url, asked) => {
    const waiting = proxqFetch({ waitMs: 200, jobsUrl: `${url}/__jobs/` })(`${url}/any`, { method: "POST", body: "x" });
    await assert.rejects(waiting, { name: "TimeoutError" });
    assert.equal(asked.at(-1)?.what, "DELETE /__jobs/j%201");
  }));

test("an answer without the source is the answer, and streams go past the queue", () =>
  serving([], async (url, asked) => {
    const pieces = await client(url).chat.completions.create({ ...HELLO, messages: [...HELLO.messages], stream: true });
    const texts: (string | null | undefined)[] = [];
    for await (const piece of pieces) texts.push(piece.choices[0]?.delta.content);
    assert.deepEqual(texts, ["a", "b"]);
    assert.equal(asked.length, 1);
    assert.equal(asked[0]?.chunked, true);
    assert.equal((JSON.parse(asked[0].body) as { stream: boolean }).stream, true);
  }, (response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    for (const content of ["a", "b"]) {
      response.write(`data: ${JSON.stringify({ choices: [{ index: 0, delta: { content } }] })}\n\n`);
    }
    response.end("data: [DONE]\n\n");
  }));
