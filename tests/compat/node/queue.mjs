// Calls methods of a Queue, one after the other: {calls: [[name, ...arguments], ...]}; prints each result.
import { bullmq, connection, emit, given, queueName } from './lib.mjs';

const queue = new bullmq.Queue(queueName, { connection });
for (const [name, ...args] of given.calls) {
  const result = await queue[name](...args);
  emit({ call: name, result: result?.asJSON ? { id: result.id, ...result.asJSON() } : result ?? null });
}
await queue.close();
