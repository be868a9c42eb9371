/**
 * The TypeScript client of toril: jobs, results, events and workers over HTTP and WebSocket.
 *
 *     const orders = new Client("http://127.0.0.1:8080", "TOKEN").queue<{ amount: number }, string>("orders");
 *     const job = await orders.add("charge", { amount: 42 });
 *     console.log(await orders.result(job.id));
 */

export { Client, Queue, type Listing, type Waiting } from "./client.js";
export type { BulkAction, BulkOptions, BulkResult, EndpointOptions, Policy, Searching, SearchState, Status } from "./calls.js";
export {
  Deliveries, Targets, type AcceptedDelivery, type Delivery, type DeliveryFilter, type DeliveryHistory, type DeliveryStatus,
  type EnvelopeOptions, type Replayed, type ReplayOptions, type Target,
} from "./deliveries.js";
export { JobFailed, RetryIn, TorilError, Unrecoverable } from "./errors.js";
export type { EventData, Listening, QueueEvent } from "./events.js";
export type { Group, GroupLimits, Groups, LimitsInForce } from "./groups.js";
export type { Backoff, GroupOption, Job, JobOptions, Keep, NewJob, State } from "./jobs.js";
export { NotQueued, ProxyClient, type ProxiedJob, type ProxyClientOptions } from "./proxied.js";
export { Later, PushedJob, pushHandler, type PushOptions, type Work } from "./push.js";
export { proxqFetch, type ProxqOptions } from "./proxq.js";
export { Task } from "./task.js";
export { Worker, type Handler, type WorkerOptions } from "./worker.js";
