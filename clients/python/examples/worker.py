"""Works on the queue `orders` until SIGTERM or Ctrl-C. TORIL and TOKEN say where and as whom."""

import os

from toril_client import Task, Worker


async def charge(task: Task) -> dict[str, int]:
    print("charging", task.data["amount"])
    await task.progress(50)
    return {"charged": task.data["amount"]}


worker = Worker(os.environ["TORIL"], os.environ["TOKEN"], os.environ.get("QUEUE", "orders"), charge, concurrency=10)
worker.run_forever()
