"""A Flask application that toril pushes the jobs of the queue `orders` to, on port 3000 until Ctrl-C.

With SECRET (`whsec_…`) the requests are signed, and others are refused.
"""

import os

from flask import Flask

from toril_client import Client, PushedJob
from toril_client.flask import push_handler

TORIL = os.environ["TORIL"]
PORT = int(os.environ.get("PORT", "3000"))
SECRETS = os.environ.get("SECRET", "").split()


def charge(pushed: PushedJob) -> dict[str, int]:
    pushed.log(TORIL, f"charging {pushed.data['amount']}")
    pushed.progress(TORIL, 50)
    return {"charged": pushed.data["amount"]}


app = Flask(__name__)
app.add_url_rule("/charge", view_func=push_handler(TORIL, charge, secrets=SECRETS), methods=["POST"])

if __name__ == "__main__":
    with Client(TORIL, os.environ["TOKEN"]) as toril:
        url = f"http://127.0.0.1:{PORT}/charge"
        toril.register_worker(os.environ.get("QUEUE", "orders"), url, concurrency=10, secrets=SECRETS)
    print("ready", flush=True)
    app.run("127.0.0.1", PORT)
