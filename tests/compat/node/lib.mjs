// What the scripts share: `node script.mjs <5|6> <redis url> <queue> <options as JSON>`, JSON lines out.
// A script that runs on ends when its standard input is closed.

const [version, url, queueName, options] = process.argv.slice(2);
const { hostname, port } = new URL(url);

export const bullmq = await import(`bullmq${version}`);
export const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null };
export { queueName };
export const given = options ? JSON.parse(options) : {};

/** Print one fact for the test to read. */
export function emit(fact) {
  process.stdout.write(JSON.stringify(fact) + '\n');
}

/** Resolves when the test is done with us. */
export function toldToStop() {
  process.stdin.resume();
  return new Promise(resolve => process.stdin.once('end', resolve));
}

export const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
