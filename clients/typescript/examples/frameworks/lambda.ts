// A Lambda function that toril pushes the jobs of the queue `orders` to, by a function URL or an API Gateway.

import { lambdaHandler } from "toril-client/lambda";
import { charge, serve, signing, TORIL } from "./serve.js";

export const handler = lambdaHandler(TORIL, charge, signing);

serve(async (request) => { // in place of AWS: a request becomes an event
  const body = Buffer.from(await request.arrayBuffer()).toString("base64");
  const answer = await handler({ headers: Object.fromEntries(request.headers), body, isBase64Encoded: true });
  return new Response(answer.body, { status: answer.statusCode, headers: answer.headers });
});
