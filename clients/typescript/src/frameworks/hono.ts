/** A handler of pushed jobs for Hono. */

import { pushHandler, type PushOptions, type Work } from "../push.js";

/** What is used of Hono's context. */
export interface HonoContext {
  readonly req: { readonly raw: Request };
}

/**
 * A handler that works on pushed jobs: `app.post("/charge", honoHandler(TORIL, charge, { secrets }))`.
 *
 * It needs the body as it came: where a middleware has read it, it answers 500 and says so.
 *
 * @throws RangeError when a secret is none, or the list is empty
 */
export function honoHandler<Data = unknown, Result = unknown>(
  url: string, work: Work<Data, Result>, options: PushOptions = {},
): (context: HonoContext) => Promise<Response> {
  const handle = pushHandler(url, work, options);
  return (context) => handle(context.req.raw);
}
