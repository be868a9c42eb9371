"""Works on the queue `orders` until SIGTERM or Ctrl-C. TORIL and TOKEN say where and as whom."""

import os

from toril_client import Client, Task

toril = Client(os.environ["TORIL"], os.environ["TOKEN"])


@toril.worker(os.environ.get("QUEUE", "orders"), concurrency=10)
async def charge(task: Task) -> dict[str, int]:
    print("charging", task.data["amount"])
    await task.progress(50)
    return {"charged": task.data["amount"]}


charge.run_forever()
