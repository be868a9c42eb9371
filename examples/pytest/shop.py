"""A shop that charges orders: an HTTP handler that works on jobs, and a function that adds them."""

import json
from http.server import BaseHTTPRequestHandler
from urllib.request import Request, urlopen


class Charge(BaseHTTPRequestHandler):
    """The worker: charges an amount. What is no amount fails for good, by a status that says so."""

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["content-length"])))["job"]
        if job["data"]["amount"] > 0:
            self.reply(200, {"charged": job["data"]["amount"]})
        else:
            self.reply(422, {"error": "nothing to charge"})

    def reply(self, status: int, value: object) -> None:
        """Answer with JSON."""
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def place_order(toril: str, token: str, queue: str, amount: int) -> str:
    """Add a job that charges an amount, and tell the warehouse. Returns the job's id."""
    (job,) = _post(toril, token, f"/queues/{queue}/jobs", [{"name": "charge", "data": {"amount": amount}}])
    _post(toril, token, "/enqueue", {"target": "warehouse", "body": {"amount": amount}})
    return job["id"]


def _post(toril: str, token: str, path: str, value: object) -> object:
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    with urlopen(Request(toril + path, json.dumps(value).encode(), headers)) as answer:
        return json.load(answer)
