"""Prints what happens in the queue `orders`, from the oldest event that is kept, until Ctrl-C."""

import os

from toril_client import Client

with Client(os.environ["TORIL"], os.environ["TOKEN"]) as toril:
    for event in toril.events(os.environ.get("QUEUE", "orders"), since="0"):
        print(event.id, event.name, event.data.get("jobId", ""), flush=True)
