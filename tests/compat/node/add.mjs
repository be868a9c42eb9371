// Adds {jobs: [{name, data, opts}]}; with {wait: true} prints how each ended, as waitUntilFinished sees it.
import { bullmq, connection, emit, given, queueName } from './lib.mjs';

const queue = new bullmq.Queue(queueName, { connection });
// From the first event on: reading from "now" begins some time after "ready", and a quick job would end in between.
const events = given.wait ? new bullmq.QueueEvents(queueName, { connection, lastEventId: '0-0' }) : undefined;
await events?.waitUntilReady();

const added = given.bulk
  ? await queue.addBulk(given.jobs)
  : await Promise.all(given.jobs.map(({ name, data, opts }) => queue.add(name, data, opts)));

for (const job of added) {
  emit({ added: job.id });
}
if (events) {
  for (const job of added) {
    try {
      emit({ id: job.id, returnvalue: await job.waitUntilFinished(events, 15_000) });
    } catch (error) {
      emit({ id: job.id, failedReason: error.message });
    }
  }
}
await events?.close();
await queue.close();
