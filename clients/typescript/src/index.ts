/**
 * The TypeScript client of toril: jobs, results, events and workers over HTTP and WebSocket.
 *
 *     const orders = new Client("http://127.0.0.1:8080", "TOKEN").queue<{ amount: number }, string>("orders");
 *     const job = await orders.add("charge", { amount: 42 });
 *     console.log(await orders.result(job.id));
 */

export { Client, Queue, type Listing, type Waiting } from "./client.js";
export type { EndpointOptions, Policy, Status } from "./calls.js";
export { JobFailed, RetryIn, TorilError, Unrecoverable } from "./errors.js";
export type { EventData, Listening, QueueEvent } from "./events.js";
export type { Backoff, Job, JobOptions, Keep, NewJob, State } from "./jobs.js";
export { Later, PushedJob, pushHandler, type PushOptions } from "./push.js";
export { proxqFetch, type ProxqOptions } from "./proxq.js";
export { Task } from "./task.js";
export { Worker, type Handler, type WorkerOptions } from "./worker.js";
