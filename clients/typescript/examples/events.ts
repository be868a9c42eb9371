// Prints what happens in the queue `orders`, from the oldest event that is kept, until Ctrl-C.

import { Client } from "toril-client";

const { TORIL = "http://127.0.0.1:8080", TOKEN = "", QUEUE = "orders" } = process.env;

const orders = new Client(TORIL, TOKEN).queue<{ amount: number }, { charged: number }>(QUEUE);
for await (const event of orders.events({ since: "0" })) {
  if (event.name === "completed") console.log(event.data.jobId, "charged", event.data.returnvalue.charged);
  else console.log(event.id, event.name);
}
