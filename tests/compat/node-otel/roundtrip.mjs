// node roundtrip.mjs <redis url> <OTLP url> <prefix> <queue to work on> <queue to add to>
// Works on one job of the first queue, adds one to the second, each with BullMQ's own telemetry, and prints their ids.
import { trace } from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { BatchSpanProcessor, NodeTracerProvider } from '@opentelemetry/sdk-trace-node';
import { Queue, Worker } from 'bullmq';
import { BullMQOtel } from 'bullmq-otel';

const [redis, collector, prefix, worksOn, addsTo] = process.argv.slice(2);
const { hostname, port } = new URL(redis);
const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null };
const provider = new NodeTracerProvider({
  resource: resourceFromAttributes({ 'service.name': 'node' }),
  spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter({ url: `${collector}/v1/traces` }))],
});
provider.register();
const telemetry = new BullMQOtel('node');

const worker = new Worker(worksOn, async job => job.id, { connection, prefix, telemetry });
await new Promise(resolve => worker.once('completed', resolve));
await worker.close();

const queue = new Queue(addsTo, { connection, prefix, telemetry });
const added = await trace.getTracer('node').startActiveSpan('checkout', async span => {
  const job = await queue.add('work', {});
  span.end();
  return job;
});
await queue.close();
await provider.shutdown();
process.stdout.write(JSON.stringify({ added: added.id }) + '\n');
