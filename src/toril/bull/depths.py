"""How full queues are: jobs by state, and how long the oldest has been waiting. Called, through a port, for metrics."""

from __future__ import annotations

from collections.abc import Sequence

from toril.bull.inspector import Inspector
from toril.core.actions import STATES
from toril.core.metrics import QueueDepth
from toril.core.ports import Now


class Depths:
    """Reads queues, writes nothing."""

    def __init__(self, inspector: Inspector, now: Now) -> None:
        self._inspector = inspector
        self._now = now

    async def read(self, queues: Sequence[str]) -> list[QueueDepth]:
        """The depths of these queues, in their order. One after the other: other commands are not held up by many."""
        return [await self._depth(queue) for queue in queues]

    async def _depth(self, queue: str) -> QueueDepth:
        counts = await self._inspector.counts(queue, STATES)
        waiting = counts["waiting"] + counts["paused"] + counts["prioritized"]
        since_ms = await self._inspector.oldest_waiting_since_ms(queue) if waiting else None
        return QueueDepth(queue, dict(counts), 0.0 if since_ms is None else max(0.0, self._now() - since_ms / 1000))
