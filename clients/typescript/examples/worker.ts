// Works on the queue `orders` until SIGTERM or Ctrl-C. TORIL and TOKEN say where and as whom.

import { Client, type Task } from "toril-client";

const { TORIL = "http://127.0.0.1:8080", TOKEN = "", QUEUE = "orders" } = process.env;

async function charge(task: Task<{ amount: number }>): Promise<{ charged: number }> {
  console.log("charging", task.data.amount);
  task.progress(50);
  return { charged: task.data.amount };
}

const worker = new Client(TORIL, TOKEN).queue<{ amount: number }, { charged: number }>(QUEUE).worker(charge, {
  concurrency: 10,
  onRetry: (error) => console.error(error.message),
});
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => void worker.stop());
await worker.run();
