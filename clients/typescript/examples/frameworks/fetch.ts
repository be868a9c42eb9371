// A Cloudflare Worker that toril pushes the jobs of the queue `orders` to; its environment has TORIL and SECRET.

import { fetchHandler } from "toril-client/fetch";
import { charge, serve, signing, TORIL } from "./serve.js";

interface Env {
  readonly TORIL: string;
  readonly SECRET?: string;
}

const worker = {
  fetch: fetchHandler((env: Env) => ({ url: env.TORIL, ...(env.SECRET ? { secrets: [env.SECRET] } : {}) }), charge),
};
export default worker;

const env = { TORIL, ...(signing.secrets ? { SECRET: signing.secrets[0]! } : {}) };
serve((request) => worker.fetch(request, env, { waitUntil: () => undefined })); // in place of Cloudflare
