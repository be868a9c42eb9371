// Adds a flow: {flow: {name, queueName, data, opts, children}}; prints its ids as a tree.
import { bullmq, connection, emit, given } from './lib.mjs';

const ids = ({ job, children }) => ({ id: job.id, queue: job.queueName, children: (children ?? []).map(ids) });
const producer = new bullmq.FlowProducer({ connection });
emit(ids(await producer.add(given.flow)));
await producer.close();
