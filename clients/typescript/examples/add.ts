// Adds a job to the queue `orders` and waits for its result.

import { Client } from "toril-client";

const { TORIL = "http://127.0.0.1:8080", TOKEN = "", QUEUE = "orders" } = process.env;

const orders = new Client(TORIL, TOKEN).queue<{ amount: number }, { charged: number }>(QUEUE);
const job = await orders.add("charge", { amount: 42 }, { attempts: 3 });
console.log("added", job.id);
console.log("result", await orders.result(job.id));
