/**
 * Lets a real browser work: serves a page that runs the client, with toril behind the same origin, as a reverse proxy
 * would; starts the browser (its program is the first argument); prints what the page found, as JSON.
 */

import { spawn } from "node:child_process";
import { readFile, mkdtemp, rm } from "node:fs/promises";
import { createServer, request } from "node:http";
import { connect, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { TOKEN, TORIL } from "./support.js";

const dist = new URL("../../dist/", import.meta.url);
const page = `<script type="module">
import { Client } from "/dist/index.js";
const work = (task) => { task.progress(50); return task.data * 2; };
async function found() {
  const queue = new Client(location.origin, ${JSON.stringify(TOKEN)}).queue("browser-" + crypto.randomUUID());
  const jobs = await queue.addBulk(Array.from({ length: 50 }, (_, data) => ({ name: "n", data })));
  const worker = queue.worker(work, { concurrency: 10 });
  const running = worker.run();
  const results = await Promise.all(jobs.map((job) => queue.result(job.id)));
  await worker.stop();
  await running;
  const events = {};
  for await (const { name } of queue.events({ since: "0" })) {
    events[name] = (events[name] ?? 0) + 1;
    if (events.completed === 50) break;
  }
  const stranger = new Client(location.origin, "wrong").queue(queue.name);
  const refused = await stranger.worker(work).run().catch((error) => error.code);
  const elsewhere = new Client(${JSON.stringify(TORIL)}, ${JSON.stringify(TOKEN)}).queue(queue.name);
  const elsewhereRest = await elsewhere.counts().then(() => "works", (error) => error.code);
  const far = elsewhere.worker(work);
  const farRunning = far.run();
  const elsewhereWorker = await queue.result((await queue.add("n", 21)).id, { waitMs: 5000 }).catch((error) => error.code);
  await far.stop();
  await farRunning;
  return { results, events, refused, elsewhereRest, elsewhereWorker };
}
const outcome = await found().catch((error) => ({ error: String(error), stack: error.stack }));
await fetch("/outcome", { method: "POST", body: JSON.stringify(outcome) });
</script>`;

let finish = async (): Promise<void> => undefined;
const target = new URL(TORIL);
const outcome = await new Promise<string>(async (resolve) => {
  const server = createServer(async (incoming, outgoing) => {
    const path = incoming.url ?? "/";
    if (path === "/") {
      outgoing.setHeader("content-type", "text/html").end(page);
    } else if (path.startsWith("/dist/")) {
      outgoing.setHeader("content-type", "text/javascript").end(await readFile(new URL(path.slice(6), dist)));
    } else if (path === "/outcome") {
      resolve(await text(incoming));
      outgoing.end();
    } else {
      const { method, headers } = incoming;
      const forwarded = request({ host: target.hostname, port: target.port, path, method, headers }, (answer) => {
        answer.pipe(outgoing.writeHead(answer.statusCode ?? 502, answer.headers));
      });
      outgoing.on("close", () => forwarded.destroy());
      forwarded.on("error", () => outgoing.destroy());
      incoming.pipe(forwarded);
    }
  });
  server.on("upgrade", (incoming, here, head) => {
    const there = connect(Number(target.port), target.hostname);
    const headers = incoming.rawHeaders.map((word, at) => word + (at % 2 === 0 ? ": " : "\r\n")).join("");
    there.write(`GET ${incoming.url} HTTP/1.1\r\n${headers}\r\n`);
    there.write(head);
    there.on("error", () => here.destroy());
    here.on("error", () => there.destroy());
    here.pipe(there).pipe(here);
  });
  server.listen(0, "127.0.0.1");
  server.on("listening", async () => {
    const profile = await mkdtemp(join(tmpdir(), "toril-browser-"));
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
    const options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", `--user-data-dir=${profile}`];
    const browser = spawn(process.argv[2] ?? "chromium", [...options, "--remote-debugging-port=0", url], {
      stdio: "ignore",
      detached: true,
    });
    finish = async () => {
      process.kill(-browser.pid!, "SIGKILL");
      server.close();
      server.closeAllConnections();
      await rm(profile, { recursive: true, force: true, maxRetries: 10 });
    };
  });
});
console.log(outcome);
await finish();
