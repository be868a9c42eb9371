"""A web handler that toril pushes the jobs of the queue `orders` to, on port 3000 until Ctrl-C.

With SECRET (`whsec_…`) the requests are signed, and others are refused.
"""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from toril_client import Client, PushedJob, TorilError

TORIL = os.environ["TORIL"]
PORT = int(os.environ.get("PORT", "3000"))
SECRETS = os.environ.get("SECRET", "").split()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            pushed = PushedJob.verified(body, self.headers, SECRETS) if SECRETS else PushedJob.from_body(body)
        except TorilError as error:
            self.answer(*PushedJob.failure(error.message, error.status))
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
    url = f"http://127.0.0.1:{PORT}/charge"
    toril.register_worker(os.environ.get("QUEUE", "orders"), url, concurrency=10, secrets=SECRETS)
print("ready", flush=True)
server.serve_forever()
