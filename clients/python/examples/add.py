"""Adds a job to the queue `orders` and waits for its result."""

import os

from toril_client import Client

with Client(os.environ["TORIL"], os.environ["TOKEN"]) as toril:
    job = toril.add("orders", "charge", {"amount": 42}, attempts=3)
    print("added", job.id)
    print("result", toril.result("orders", job.id, wait_s=30))
