// Calls methods of BullMQ's classes as standard input asks for them, a JSON line each: {n, kind, queue, id, method, args}.
// Answers {n, ok} or {n, error}. One process per version serves a whole test run.
import { createInterface } from 'node:readline';
import { bullmq, connection, emit } from './lib.mjs';

const open = new Map();

/** One object per class and queue, for as long as the process lives. */
function kept(kind, queue, make) {
  const key = `${kind} ${queue}`;
  if (!open.has(key)) {
    open.set(key, make());
  }
  return open.get(key);
}

const queueOf = name => kept('Queue', name, () => new bullmq.Queue(name, { connection }));
const targets = {
  Queue: ({ queue }) => queueOf(queue),
  Job: ({ queue, id }) => queueOf(queue).getJob(id),
  FlowProducer: () => kept('FlowProducer', '', () => new bullmq.FlowProducer({ connection })),
  JobScheduler: ({ queue }) => queueOf(queue).jobScheduler,
};

/** What JSON can say of a result: jobs by their fields, trees of them as such. */
function shown(value) {
  if (Array.isArray(value)) {
    return value.map(shown);
  }
  if (value?.asJSON) {
    return { id: value.id, ...value.asJSON() };
  }
  if (value?.job) {
    return { job: shown(value.job), children: shown(value.children ?? []) };
  }
  return value ?? null;
}

async function call({ n, kind, queue, id, method, args }) {
  try {
    const target = await targets[kind]({ queue, id });
    const member = target[method];
    emit({ n, ok: shown(await (typeof member === 'function' ? member.apply(target, args) : member)) });
  } catch (error) {
    emit({ n, error: error.message });
  }
}

emit({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  call(JSON.parse(line));
}
await Promise.all([...open.values()].map(one => one.close()));
