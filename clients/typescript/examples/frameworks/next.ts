// A Next.js route that toril pushes the jobs of the queue `orders` to: the file `app/charge/route.ts`.

import { nextHandler } from "toril-client/next";
import { charge, serve, signing, TORIL } from "./serve.js";

export const POST = nextHandler(TORIL, charge, signing);

serve(POST); // in place of Next.js
