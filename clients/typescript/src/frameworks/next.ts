/** A handler of pushed jobs for Next.js, in a file `app/…/route.ts`. */

import { pushHandler, type PushOptions, type Work } from "../push.js";

/**
 * A route handler that works on pushed jobs: `export const POST = nextHandler(TORIL, charge, { secrets })`.
 *
 * @throws RangeError when a secret is none, or the list is empty
 */
export function nextHandler<Data = unknown, Result = unknown>(
  url: string, work: Work<Data, Result>, options: PushOptions = {},
): (request: Request) => Promise<Response> {
  return pushHandler(url, work, options);
}
