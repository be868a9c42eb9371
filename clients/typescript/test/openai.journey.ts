/** The package `openai` through a real toril, as a program: prints what came of it as JSON. */

import OpenAI, { APIError, toFile } from "openai";
import { proxqFetch } from "toril-client";

const client = new OpenAI({
  apiKey: "sk-1", baseURL: `${process.env["PROXQ"] ?? ""}/v1`, maxRetries: 0, fetch: proxqFetch(),
});

async function say(content: string): Promise<string | null | undefined> {
  const made = await client.chat.completions.create({ model: "m", messages: [{ role: "user", content }] });
  return made.choices[0]?.message.content;
}

const pieces: unknown[] = [];
const stream = await client.chat.completions.create({
  model: "m", messages: [{ role: "user", content: "hello" }], stream: true,
});
for await (const piece of stream) pieces.push(piece.choices[0]?.delta.content);

const error = await say("429").catch((thrown: unknown) =>
  thrown instanceof APIError ? [thrown.status, thrown.requestID, thrown.code] : thrown,
);
const speech = await client.audio.speech.create({ model: "m", voice: "alloy", input: "x" });
const file = await client.files.create({
  file: await toFile(new Uint8Array(1234).fill(0xfe), "a.bin"), purpose: "batch",
});

console.log(JSON.stringify({
  said: await say("hello"),
  many: await Promise.all(Array.from({ length: 20 }, (_, number) => say(String(number)))),
  pieces,
  error,
  speech: (await speech.arrayBuffer()).byteLength,
  file: file.bytes,
}));
