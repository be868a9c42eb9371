/** A handler of pushed jobs for Express, Connect and plain `node:http`. */

import { MAX_BODY_BYTES, PushedJob, pushHandler, tooLarge, type PushOptions, type Work } from "../push.js";

/** What is used of a request; Node's and Express' have it. */
export interface NodeRequest {
  readonly method?: string | undefined;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  /** True once something has read of the body. */
  readonly readableDidRead?: boolean;
  on(event: "data", listener: (piece: Uint8Array) => void): unknown;
  on(event: "end" | "close", listener: () => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  pause(): unknown;
}

/** What is used of a response. */
export interface NodeResponse {
  statusCode: number;
  setHeader(name: string, value: string): unknown;
  end(body: string): unknown;
}

const USED =
  "the body was read before, so it cannot be verified: put this handler before express.json(), or keep the bytes with " +
  "express.raw({ type: () => true }) or express.json({ verify: (request, _, bytes) => { request.rawBody = bytes } })";

/**
 * A handler that works on pushed jobs: `app.post("/charge", expressHandler(TORIL, charge, { secrets }))`.
 *
 * It reads the raw body by itself, or takes what `express.raw()` left in `request.body`, or `request.rawBody`. Where a parser
 * has used the body up and kept no bytes, it answers 500 and says what to do.
 *
 * @throws RangeError when a secret is none, or the list is empty
 */
export function expressHandler<Data = unknown, Result = unknown>(
  url: string, work: Work<Data, Result>, options: PushOptions = {},
): (request: NodeRequest, response: NodeResponse) => Promise<void> {
  const handle = pushHandler(url, work, options);
  const { maxBodyBytes = MAX_BODY_BYTES } = options;
  return async (incoming, outgoing) => {
    let response: Response;
    try {
      const body = await bytesOf(incoming, maxBodyBytes);
      if (body === undefined) response = PushedJob.failure(USED);
      else if (body === "too large") {
        response = PushedJob.failure(tooLarge(maxBodyBytes).message, 413);
        outgoing.setHeader("connection", "close"); // the rest of the body is not read
      } else response = await handle(new Request("http://toril/", { method: "POST", headers: headersOf(incoming), body }));
    } catch (error) {
      response = PushedJob.failure(String(error), 400); // the caller went away in the middle
    }
    outgoing.statusCode = response.status;
    response.headers.forEach((value, name) => outgoing.setHeader(name, value));
    outgoing.end(await response.text());
  };
}

function headersOf(request: NodeRequest): Headers {
  const headers = new Headers();
  for (const name of ["webhook-id", "webhook-timestamp", "webhook-signature"]) {
    const value = request.headers[name];
    if (typeof value === "string") headers.set(name, value);
  }
  return headers;
}

/** The body as it came; nothing where something else has used it up. */
async function bytesOf(
  request: NodeRequest & { readonly body?: unknown; readonly rawBody?: unknown }, maxBytes: number,
): Promise<Uint8Array<ArrayBuffer> | string | "too large" | undefined> {
  for (const kept of [request.rawBody, request.body]) {
    if (kept instanceof Uint8Array) return kept.byteLength > maxBytes ? "too large" : new Uint8Array(kept);
  }
  if (request.readableDidRead === true) return undefined;
  if (Number(request.headers["content-length"] ?? 0) > maxBytes) return "too large";
  return await new Promise((resolve, reject) => {
    const pieces: Uint8Array[] = [];
    let length = 0;
    request.on("error", reject);
    request.on("close", () => reject(new Error("the request ended early")));
    request.on("end", () => {
      const whole = new Uint8Array(length);
      let at = 0;
      for (const piece of pieces) {
        whole.set(piece, at);
        at += piece.byteLength;
      }
      resolve(whole);
    });
    request.on("data", (piece) => {
      length += piece.byteLength;
      pieces.push(piece);
      if (length > maxBytes) {
        request.pause();
        resolve("too large");
      }
    });
  });
}
