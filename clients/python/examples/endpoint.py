"""A web handler that toril pushes the jobs of the queue `orders` to, on port 3000 until Ctrl-C."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from toril_client import Client, PushedJob, TorilError

TORIL = os.environ["TORIL"]
PORT = int(os.environ.get("PORT", "3000"))


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            pushed = PushedJob.from_body(body)
        except TorilError as error:
            self.answer(*PushedJob.failure(error.message, 400))
            return
        pushed.log(TORIL, f"charging {pushed.job.data['amount']}")
        pushed.progress(TORIL, 50)
        self.answer(*PushedJob.result({"charged": pushed.job.data["amount"]}))

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in (headers | {"content-length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


server = ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
with Client(TORIL, os.environ["TOKEN"]) as toril:
    toril.register_worker(os.environ.get("QUEUE", "orders"), f"http://127.0.0.1:{PORT}/charge", concurrency=10)
print("ready", flush=True)
server.serve_forever()
