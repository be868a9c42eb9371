"""The depths of queues for metrics: jobs by state, and how long the oldest has been waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from toril.bullmq.groups.depths import GroupDepths
from toril.bullmq.inspector import Inspector
from toril.bullmq.rules.actions import STATES
from toril.core.errors import StoreError
from toril.core.metrics import GroupDepth, QueueDepth
from toril.core.ports import Now

log = structlog.get_logger(__name__)


class DepthReader:
    """A reader of queue depths.

    Args:
        inspector: reads queues.
        now: the clock of Redis.
        groups: reads their groups; None leaves them out.
    """

    def __init__(self, inspector: Inspector, now: Now, groups: GroupDepths | None = None) -> None:
        self._inspector = inspector
        self._now = now
        self._groups = groups

    async def read(self, queues: Sequence[str]) -> list[QueueDepth]:
        """Return the depths of these queues, in their order, without those that cannot be read.

        All are read at once, in as many round trips as one. The caller passes few enough to hold up no other command.
        """
        async with asyncio.TaskGroup() as tasks:
            reading = [tasks.create_task(self._readable(queue)) for queue in queues]
        return [depth for task in reading if (depth := task.result()) is not None]

    async def _readable(self, queue: str) -> QueueDepth | None:
        try:
            return await self._depth(queue)
        except (StoreError, ValueError) as exc:  # not BullMQ's keys
            log.debug("metrics.depth_unread", queue=queue, error=str(exc))
            return None

    async def _depth(self, queue: str) -> QueueDepth:
        counts = await self._inspector.counts(queue, STATES)
        waiting = counts["waiting"] + counts["paused"] + counts["prioritized"]
        since_ms = await self._inspector.oldest_waiting_since_ms(queue) if waiting else None
        oldest_s = 0.0 if since_ms is None else max(0.0, self._now() - since_ms / 1000)
        paused, has_groups = await self._inspector.paused_or_grouped(queue)
        return QueueDepth(queue, dict(counts), oldest_s, paused, await self._of_groups(queue, has_groups=has_groups))

    async def _of_groups(self, queue: str, *, has_groups: bool) -> tuple[GroupDepth, ...]:
        if self._groups is None:
            return ()
        if has_groups:
            return await self._groups.of(queue)
        self._groups.forget(queue)
        return ()
