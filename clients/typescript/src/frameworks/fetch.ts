/** A handler of pushed jobs for Cloudflare Workers and what calls `fetch(request, env, context)` as they do. */

import { pushHandler, type Later, type PushedJob, type PushOptions } from "../push.js";

/** What a handler has to know; it is in the environment that comes with each request. */
export interface FetchOptions extends PushOptions {
  /** Where toril is. */
  readonly url: string;
}

/** What is used of a platform's context. */
export interface FetchContext {
  /** Let work go on when the answer is out: that of a job which is settled later. */
  waitUntil(work: Promise<unknown>): void;
}

/**
 * A `fetch` that works on pushed jobs:
 * `export default { fetch: fetchHandler((env: Env) => ({ url: env.TORIL, secrets: [env.SECRET] }), charge) }`.
 *
 * The function gets the environment and the context too: `context.waitUntil(printBook(pushed))` before it returns `Later`.
 * A secret that is none makes each request a 500 that says so.
 */
export function fetchHandler<Env = unknown, Data = unknown, Result = unknown>(
  configure: (env: Env) => FetchOptions,
  work: (pushed: PushedJob<Data, Result>, env: Env, context: FetchContext) => Result | Later | Promise<Result | Later>,
): (request: Request, env: Env, context: FetchContext) => Promise<Response> {
  return async (request, env, context) => {
    let handle;
    try {
      const { url, ...options } = configure(env);
      handle = pushHandler<Data, Result>(url, (pushed) => work(pushed, env, context), options);
    } catch (error) {
      return new Response(error instanceof Error ? error.message : String(error), { status: 500 });
    }
    return await handle(request);
  };
}
