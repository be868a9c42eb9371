/** A handler of pushed jobs for AWS Lambda behind a function URL, an API Gateway (REST or HTTP) or a load balancer. */

import { MAX_BODY_BYTES, PushedJob, pushHandler, tooLarge, type PushOptions, type Work } from "../push.js";

/** What is used of an event; those of all three have it. */
export interface LambdaEvent {
  readonly headers?: Readonly<Record<string, string | undefined>> | null | undefined;
  readonly multiValueHeaders?: Readonly<Record<string, readonly string[] | undefined>> | null | undefined;
  readonly body?: string | null | undefined;
  readonly isBase64Encoded?: boolean | undefined;
}

/** The answer, as all three take it. */
export interface LambdaResult {
  statusCode: number;
  headers: Record<string, string>;
  body: string;
  isBase64Encoded: false;
}

/**
 * A handler that works on pushed jobs: `export const handler = lambdaHandler(TORIL, charge, { secrets })`.
 *
 * Lambda freezes a function once it has answered: what returns `Later` must be settled by something else.
 *
 * @throws RangeError when a secret is none, or the list is empty
 */
export function lambdaHandler<Data = unknown, Result = unknown>(
  url: string, work: Work<Data, Result>, options: PushOptions = {},
): (event: LambdaEvent) => Promise<LambdaResult> {
  const handle = pushHandler(url, work, options);
  const { maxBodyBytes = MAX_BODY_BYTES } = options;
  return async (event) => {
    const text = event.body ?? "";
    // Four letters of Base64 are three bytes. What is refused is not decoded.
    const tooMuch = event.isBase64Encoded === true && text.length * 0.75 - 2 > maxBodyBytes;
    const response = tooMuch
      ? PushedJob.failure(tooLarge(maxBodyBytes).message, 413)
      : await handle(new Request("http://toril/", { method: "POST", headers: headersOf(event), body: bytesOf(event) }));
    const headers = Object.fromEntries(response.headers);
    return { statusCode: response.status, headers, body: await response.text(), isBase64Encoded: false };
  };
}

function bytesOf(event: LambdaEvent): Uint8Array<ArrayBuffer> {
  const text = event.body ?? "";
  if (event.isBase64Encoded !== true) return new TextEncoder().encode(text);
  try {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  } catch {
    return new Uint8Array(); // no Base64, and no pushed job
  }
}

/** The headers that matter: names in any case, and one value each. */
function headersOf(event: LambdaEvent): Headers {
  const headers = new Headers();
  const given: [string, string | undefined][] = [
    ...Object.entries(event.multiValueHeaders ?? {}).map(([name, values]): [string, string | undefined] => [name, values?.[0]]),
    ...Object.entries(event.headers ?? {}),
  ];
  for (const [name, value] of given) {
    if (value !== undefined && /^webhook-/i.test(name)) headers.set(name, value);
  }
  return headers;
}
