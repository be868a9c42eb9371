// `node cron.mjs <5|6>`: when cron patterns are next due, by the strategy of BullMQ's own job schedulers. Standard input is
// a JSON list of [pattern, zone, from, options]; the answers are a list of times, null where there is none, or {error}.
import { readFileSync } from 'node:fs';

const { defaultRepeatStrategy } = await import(`bullmq${process.argv[2]}`);

function due([pattern, tz, from, options]) {
  try {
    return defaultRepeatStrategy(from, { ...options, pattern, tz }) ?? null;
  } catch (error) {
    return { error: error.message };
  }
}

process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0)).map(due)));
