// A Hono application that toril pushes the jobs of the queue `orders` to.

import { Hono } from "hono";
import { honoHandler } from "toril-client/hono";
import { charge, serve, signing, TORIL } from "./serve.js";

const app = new Hono();
app.post("/charge", honoHandler(TORIL, charge, signing));
serve((request) => app.fetch(request)); // or Bun.serve(app), or @hono/node-server
