"""Waits for jobs of targets, and hears what other instances announce, over one connection that listens.

Each instance hears of every job, so nothing has to be passed on. What is heard of a queue while this process does not
wait for it is kept until it does. Behind a pooler, where nothing can be heard, all queues are looked at once a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from toril.bullmq.announcements import Hearing
from toril.delivery.postgres_queue.database import QueueDatabase
from toril.delivery.sql_enqueue.notifications import PostgresNotifications

CHANNEL = "toril_queue"
_NAME = "toril:queues"
_LOOK_S = 1.0
_NOTIFY = "SELECT pg_notify($1, text) FROM unnest($2::text[]) AS given (text)"

Wake = Callable[[float], None]


class PostgresWaits:
    """`MarkerWaits`, and the announcements between instances.

    Args:
        database: where to listen.
        instance_id: tells our own announcements from those of others.
        hearing: told of cancelled jobs and of holds that were ended.
    """

    def __init__(self, database: QueueDatabase, instance_id: str, hearing: Hearing) -> None:
        self._database = database
        self._id = instance_id
        self._hearing = hearing
        self._wakes: dict[str, Wake] = {}
        # Queues that were watched once, and what was heard of each since: when its next job may begin.
        self._heard: dict[str, float | None] = {}

    def watch(self, queue: str, wake: Wake) -> None:
        """As `MarkerWaits.watch`."""
        self._wakes[queue] = wake
        at_s = self._heard.get(queue)
        self._heard[queue] = None
        if at_s is not None:
            asyncio.get_running_loop().call_soon(self._wake, queue, at_s)

    def unwatch(self, queue: str) -> None:
        """As `MarkerWaits.unwatch`."""
        self._wakes.pop(queue, None)

    def put_back(self, queue: str, at_s: float) -> None:
        """As `MarkerWaits.put_back`: the other instances have heard it too."""
        if queue in self._heard:
            self.jobs_wait(queue, at_s)

    def forget(self, queue: str) -> None:
        """As `MarkerWaits.forget`."""
        self._wakes.pop(queue, None)
        self._heard.pop(queue, None)

    def jobs_wait(self, queue: str, at_s: float = 0.0) -> None:
        """Wake who waits for a queue in this process: jobs wait now (0), or from `at_s` on."""
        if queue in self._wakes:
            self._wake(queue, at_s)
        elif queue in self._heard:
            before_s = self._heard[queue]
            self._heard[queue] = at_s if before_s is None else min(before_s, at_s)

    def cancelled(self, queue: str, job_id: str) -> None:
        """Stop work on a job in this process."""
        self._hearing.cancelled(queue, job_id.encode())

    def lifted(self, queue: str) -> None:
        """Let this process look for jobs of a queue again: a hold has ended."""
        self._hearing.limit_lifted(queue)
        self.jobs_wait(queue)

    async def tell(self, connection: Any, *announcements: tuple[str, str, str]) -> None:
        """Announce to the other instances, once the transaction is committed: what, of which queue, which job or when.

        `what` is `jobs`, `cancelled` or `lifted`.
        """
        texts = [" ".join((self._id, *parts)) for parts in announcements]
        await connection.execute(_NOTIFY, CHANNEL, texts)

    async def run(self) -> None:
        """Listen until cancelled. The database is open."""
        if self._database.pooled:
            while True:
                self._look_everywhere()
                await asyncio.sleep(_LOOK_S)
        await PostgresNotifications(self._database.url, CHANNEL, self._hear, self._look_everywhere, _NAME).run()

    def _look_everywhere(self) -> None:
        for queue in list(self._heard):
            self.jobs_wait(queue)

    def _hear(self, text: str) -> None:
        by, _, rest = text.partition(" ")
        parts = rest.split(" ")
        if by == self._id or len(parts) != 3:
            return  # our own, or of another version
        what, queue, more = parts
        if what == "jobs":
            self.jobs_wait(queue, float(more))
        elif what == "cancelled":
            self.cancelled(queue, more)
        elif what == "lifted":
            self.lifted(queue)

    def _wake(self, queue: str, at_s: float) -> None:
        wake = self._wakes.pop(queue, None)
        if wake is not None:
            wake(at_s)
        else:
            self.jobs_wait(queue, at_s)
