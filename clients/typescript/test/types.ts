/** What the compiler must refuse. Never called: that this file compiles is the test. */

import type { PushedJob, Queue, Worker } from "toril-client";

interface Charge {
  amount: number;
}
interface Receipt {
  charged: number;
}

export async function refusedLater(orders: Queue<Charge, Receipt>, pushed: PushedJob<Charge, Receipt>): Promise<void> {
  // @ts-expect-error what completes a pushed job is the result
  await pushed.complete({ charged: "42" });
  // @ts-expect-error classes of statuses are written so
  await orders.registerWorker("http://127.0.0.1:3000/charge", { policy: { retryOn: ["5XX"] } });
}

export async function refused(orders: Queue<Charge, Receipt>): Promise<Worker<Charge, Receipt>> {
  // @ts-expect-error the data of a job has its type
  await orders.add("charge", { amount: "42" });
  // @ts-expect-error so has each of many
  await orders.addBulk([{ name: "charge", data: {} }]);
  // @ts-expect-error options are BullMQ's
  await orders.add("charge", { amount: 42 }, { atempts: 3 });
  const charged: number = (await orders.result("1")).charged;
  // @ts-expect-error a job has no result before its end
  const early: Receipt = (await orders.get("1")).returnvalue;
  for await (const event of orders.events()) {
    // @ts-expect-error only a completed job has returned something
    event.data.returnvalue;
    if (event.name === "completed") return orders.worker((task) => ({ charged: task.data.amount + charged }));
  }
  // @ts-expect-error what a handler returns is the result
  return orders.worker(() => early.charged);
}
