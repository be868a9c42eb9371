// Prints every event of a queue, from the first one on.
import { bullmq, connection, emit, queueName, toldToStop } from './lib.mjs';

const events = new bullmq.QueueEvents(queueName, { connection, lastEventId: '0-0' });
for (const event of ['added', 'waiting', 'active', 'progress', 'completed', 'failed', 'delayed', 'waiting-children']) {
  events.on(event, fields => emit({ event, ...fields }));
}
await events.waitUntilReady();
emit({ ready: true });
await toldToStop();
await events.close();
