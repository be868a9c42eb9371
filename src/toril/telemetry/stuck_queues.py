"""Tells which queues are stuck: their oldest waiting job has been waiting for longer than it should."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import structlog

from toril.core.errors import StoreError
from toril.core.metrics import QueueDepth
from toril.core.operator_event import OperatorEvent
from toril.core.times import moment_text
from toril.telemetry.conditions import FleetConditions

log = structlog.get_logger(__name__)

_EVERY_S = 10.0
_LIFE_S = 60.0
"""After this time without a look that finds it stuck, a queue was found well by another instance."""


class StuckQueues:
    """Reads all queues on one instance of the fleet at a time.

    Args:
        depths: reads the depth of every queue.
        conditions: what the fleet knows.
        tell: is called with each event.
        target_of: returns the target that a queue belongs to, or None.
        after_s: how long a job may wait.
    """

    def __init__(
        self,
        depths: Callable[[], AsyncIterator[QueueDepth]],
        conditions: FleetConditions,
        tell: Callable[[OperatorEvent], None],
        target_of: Callable[[str], str | None],
        after_s: float,
    ) -> None:
        self._depths = depths
        self._conditions = conditions
        self._tell = tell
        self._target_of = target_of
        self._after_s = after_s
        self._every_s = min(_EVERY_S, max(0.2, after_s / 4))
        self._stuck: set[str] = set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                if await self._conditions.claim("stuck-queues", self._every_s * 0.9):
                    await self.look()
            except StoreError as exc:
                log.debug("queues.not_watched", error=exc.message)
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Tell which queues are stuck now. Raises `StoreError`."""
        async for depth in self._depths():
            queue, stuck = depth.queue, depth.oldest_waiting_s > self._after_s
            if stuck:
                known = await self._conditions.begin("stuck", queue, _LIFE_S)
                self._stuck.add(queue)
                data = {
                    "queue": queue,
                    "since": moment_text(known.since_s),
                    "oldest_waiting_s": round(depth.oldest_waiting_s, 3),
                    "waiting": depth.waiting,
                    "paused": depth.paused,
                }
                target = self._target_of(queue)
                self._tell(OperatorEvent("queue.stuck", queue, known.since_s, data, target=target))
            elif queue in self._stuck:
                await self._conditions.end("stuck", queue)
                self._stuck.discard(queue)
