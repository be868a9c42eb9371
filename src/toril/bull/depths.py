"""How full queues are: jobs by state, and how long the oldest has been waiting. Called, through a port, for metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from toril.bull.inspector import Inspector
from toril.core.actions import STATES
from toril.core.errors import StoreError
from toril.core.metrics import QueueDepth
from toril.core.ports.shared import Now

log = structlog.get_logger(__name__)


class Depths:
    """Reads queues, writes nothing."""

    def __init__(self, inspector: Inspector, now: Now) -> None:
        self._inspector = inspector
        self._now = now

    async def read(self, queues: Sequence[str]) -> list[QueueDepth]:
        """The depths of these queues, in their order, without those that cannot be read.

        All at once, in as many round trips as for one: the caller asks for so many that other commands are not held up.
        """
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(self._readable(queue)) for queue in queues]
        return [depth for task in reading if (depth := task.result()) is not None]

    async def _readable(self, queue: str) -> QueueDepth | None:
        try:
            return await self._depth(queue)
        except (StoreError, ValueError) as exc:  # keys of another kind, or numbers that are none: not BullMQ's
            log.debug("metrics.depth_unread", queue=queue, error=str(exc))
            return None

    async def _depth(self, queue: str) -> QueueDepth:
        counts = await self._inspector.counts(queue, STATES)
        waiting = counts["waiting"] + counts["paused"] + counts["prioritized"]
        since_ms = await self._inspector.oldest_waiting_since_ms(queue) if waiting else None
        return QueueDepth(queue, dict(counts), 0.0 if since_ms is None else max(0.0, self._now() - since_ms / 1000))
