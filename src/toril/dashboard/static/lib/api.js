/** Calls of toril's public API. There is no other way to its data. */
import { refuse, token } from "./session.js";

/** Where the API is, with a slash at its end. */
export const API = new URL(document.querySelector('meta[name="toril-api"]')?.getAttribute("content") || "/", location.href).pathname;

/** The route of what `toril dev` has inspected, from the server's root; empty without an inspector. */
export const INSPECTOR = document.querySelector('meta[name="toril-inspector"]')?.getAttribute("content") || "";

/** An answer that is an error, or that did not come. */
export class ApiError extends Error {
  /**
   * @param {number} status 0 if there was no answer
   * @param {string} code
   * @param {string} detail
   * @param {string} [request]
   */
  constructor(status, code, detail, request = "") {
    super(detail);
    this.status = status;
    this.code = code;
    this.detail = detail;
    this.request = request;
  }
}

/** A path made of segments that may hold anything. @param {...(string | number)} segments */
export function path(...segments) {
  return segments.map((segment) => encodeURIComponent(String(segment))).join("/");
}

/** @param {string} route below the API, or with a slash at its beginning @param {Record<string, unknown>} [query] */
export function address(route, query = {}) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") params.set(name, String(value));
  }
  const text = params.toString();
  return (route.startsWith("/") ? route : API + route) + (text ? `?${text}` : "");
}

/**
 * Make a request.
 * @param {string} method
 * @param {string} url as `address` makes it
 * @param {{ body?: unknown, text?: string, signal?: AbortSignal, headers?: Record<string, string> }} [options]
 * @returns {Promise<Response>}
 */
export async function send(method, url, options = {}) {
  /** @type {Record<string, string>} */
  const headers = { accept: "application/json", ...options.headers };
  const shown = token.value;
  if (shown) headers.authorization = `Bearer ${shown}`;
  let body;
  if (options.text !== undefined) body = options.text;
  else if (options.body !== undefined) body = JSON.stringify(options.body);
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(url, { method, headers, body, signal: options.signal, credentials: "omit", cache: "no-store" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "toril cannot be reached");
  }
  if (!answer.ok) {
    const error = await asError(answer);
    if (answer.status === 401 && shown === token.value) refuse(error.detail);
    throw error;
  }
  return answer;
}

/** @param {Response} answer */
async function asError(answer) {
  const text = await answer.text();
  const request = answer.headers.get("x-request-id") || "";
  try {
    const problem = JSON.parse(text);
    return new ApiError(answer.status, problem.code || "error", problem.detail || problem.title || text, request);
  } catch {
    return new ApiError(answer.status, answer.headers.get("toril-code") || "error", text || answer.statusText, request);
  }
}

/** @param {string} route @param {Record<string, unknown>} [query] @param {AbortSignal} [signal] */
export async function get(route, query, signal) {
  return parse((await getText(route, query, signal)) || "null");
}

/**
 * The text of an answer.
 * @param {string} route @param {Record<string, unknown>} [query] @param {AbortSignal} [signal]
 * @param {number} [most] characters; what is longer is not read to its end, and is an error with the code `too_large`
 */
export async function getText(route, query, signal, most = Infinity) {
  const answer = await send("GET", address(route, query), { signal });
  if (!answer.body || most === Infinity) return answer.text();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const parts = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return parts.join("");
    parts.push(value);
    length += value.length;
    if (length > most) {
      reader.cancel().catch(() => {});
      throw new ApiError(0, "too_large", "The answer is too large to be shown");
    }
  }
}

/** A number that JavaScript cannot hold, as it was written. */
export class ExactNumber {
  /** @param {string} source */
  constructor(source) {
    this.source = source;
  }

  toJSON() {
    // @ts-ignore: newer than the library that describes the language
    return JSON.rawJSON ? JSON.rawJSON(this.source) : Number(this.source);
  }

  toString() {
    return this.source;
  }
}

/** Read JSON; numbers that would change are kept as they were written. @param {string} text */
export function parse(text) {
  // @ts-ignore: the third argument is newer than the library that describes the language
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && context?.source && String(value) !== context.source && !/[.eE]/.test(context.source)
      ? new ExactNumber(context.source)
      : value,
  );
}

/** @param {string} method @param {string} route @param {unknown} [body] @param {Record<string, unknown>} [query] */
export async function act(method, route, body, query) {
  const answer = await send(method, address(route, query), body === undefined ? {} : { body });
  const text = await answer.text();
  if (!text) return null;
  try {
    return parse(text);
  } catch {
    return text;
  }
}

// A browser keeps pages that were left, with their streams, and allows an origin only six connections.
let away = new AbortController();
addEventListener("pagehide", () => {
  away.abort();
  away = new AbortController();
});

/**
 * Follow a stream of Server-Sent Events until the signal says stop, or the page is left.
 * @param {string} url
 * @param {AbortSignal} signal
 * @param {(event: { id: string, event: string, data: string }) => void} heard
 * @param {{ method?: string, body?: unknown, opened?: () => void }} [options]
 */
export async function follow(url, signal, heard, options = {}) {
  const answer = await send(options.method || "GET", url, { signal: AbortSignal.any([signal, away.signal]), headers: { accept: "text/event-stream" }, body: options.body });
  options.opened?.();
  if (!answer.body) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop() || "";
    for (const block of blocks) {
      const found = { id: "", event: "message", data: "" };
      for (const line of block.split("\n")) {
        const colon = line.indexOf(":");
        if (colon <= 0) continue;
        const name = line.slice(0, colon);
        const text = line.slice(colon + 1).replace(/^ /, "");
        if (name === "data") found.data += (found.data ? "\n" : "") + text;
        else if (name === "id") found.id = text;
        else if (name === "event") found.event = text;
      }
      if (found.data || found.event !== "message") heard(found);
    }
  }
}

/** A command line that does the same; the token stands in a variable. @param {string} method @param {string} url @param {string} [body] */
export function asCurl(method, url, body) {
  const quoted = (/** @type {string} */ text) => `'${text.replaceAll("'", "'\\''")}'`;
  const lines = [`curl -X ${method} ${quoted(location.origin + url)}`, '-H "authorization: Bearer $TOKEN"'];
  if (body !== undefined) lines.push("-H 'content-type: application/json'", `-d ${quoted(body)}`);
  return lines.join(" \\\n  ");
}
