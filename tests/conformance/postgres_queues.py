"""Queues of targets in a real PostgreSQL, running, as the tests use them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from toril.bullmq.groups.defaults import GroupDefaults
from toril.bullmq.groups.held import GroupsHeld
from toril.core.metrics import UNMETERED
from toril.delivery.postgres_queue.database import QueueDatabase
from toril.delivery.postgres_queue.queue import PostgresQueue, QueueContext

LOCK_S = 30.0


class Heard:
    """Remembers what an instance is told to do."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, bytes]] = []
        self.limits: list[str] = []

    def cancelled(self, queue: str, job_id: bytes) -> None:
        self.jobs.append((queue, job_id))

    def limit_lifted(self, queue: str) -> None:
        self.limits.append(queue)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[QueueDatabase]:
    """A database with the tables, connected."""
    database = QueueDatabase(url, lambda: None)
    await database.open()
    try:
        yield database
    finally:
        database.close()


def context_of(name: str, heard: Heard | None = None, defaults: GroupDefaults | None = None) -> QueueContext:
    """What the queues use of an instance of this name."""
    held = GroupsHeld(lambda: 0.0)
    return QueueContext(name, heard or Heard(), UNMETERED, defaults or GroupDefaults(), held, lambda: None)


@asynccontextmanager
async def serving(
    url: str,
    name: str = "one",
    heard: Heard | None = None,
    *,
    defaults: GroupDefaults | None = None,
    lock_s: float = LOCK_S,
) -> AsyncIterator[PostgresQueue]:
    """The queues of one instance; `defaults` has the limits of groups that have none."""
    queue = PostgresQueue(url, context_of(name, heard, defaults), lock_s=lock_s)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(queue.run())
        await queue.open.wait()
        yield queue
        running.cancel()
