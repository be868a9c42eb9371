// A Worker that prints each job it gets: {concurrency, failFirst, workMs, opts}. The first `failFirst` attempts of
// each job throw. Returns {doubled} for data with an `n`, the children's values for a parent, and else the data.
import { bullmq, connection, emit, given, queueName, sleep, toldToStop } from './lib.mjs';

const worker = new bullmq.Worker(
  queueName,
  async job => {
    const { id, name, data, opts, attemptsMade, timestamp, priority, parent } = job;
    const children = await job.getChildrenValues();
    emit({ process: id, name, data, opts, attemptsMade, timestamp, priority, parent, children, at: Date.now() });
    await sleep(given.workMs ?? 0);
    if (attemptsMade < (given.failFirst ?? 0)) {
      throw new Error(`attempt ${attemptsMade} fails`);
    }
    if (Object.keys(children).length) {
      return children;
    }
    return typeof data?.n === 'number' ? { doubled: data.n * 2 } : data;
  },
  { connection, concurrency: given.concurrency ?? 1, ...given.opts },
);
worker.on('completed', job => emit({ completed: job.id }));
worker.on('failed', (job, error) => emit({ failed: job?.id, reason: error.message }));
worker.on('error', error => emit({ error: error.message }));
await worker.waitUntilReady();
emit({ ready: true });
await toldToStop();
await worker.close();
