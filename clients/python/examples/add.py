"""Adds a job to the queue `orders` and waits for its result. TORIL and TOKEN say where and as whom."""

import os

from toril_client import Client

queue = os.environ.get("QUEUE", "orders")
with Client(os.environ["TORIL"], os.environ["TOKEN"]) as toril:
    job = toril.add(queue, "charge", {"amount": 42}, attempts=3)
    print("added", job.id)
    print("result", toril.result(queue, job.id, wait_s=30))
