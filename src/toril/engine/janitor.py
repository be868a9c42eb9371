"""Removes what is kept no longer: ended jobs of the async proxy, also where no other job ends and BullMQ would not.

Called by `toril.bootstrap`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from toril.core.errors import StoreError
from toril.core.ports import QueueControl

log = structlog.get_logger(__name__)

_LONGEST_PAUSE_S = 60.0
_SHORTEST_PAUSE_S = 1.0
_AT_ONCE = 1000


class ProxyJanitor:
    """Sweeps some queues.

    Args:
        control: removes ended jobs.
        queues: whose jobs.
        retention_s: how long an ended job is kept.
    """

    def __init__(self, control: QueueControl, queues: Sequence[str], retention_s: float) -> None:
        self._control = control
        self._queues = queues
        self._retention_s = retention_s

    async def run(self) -> None:
        """Sweep until cancelled, ten times in the time that a job is kept, but not more often than once a second."""
        pause_s = min(max(self._retention_s / 10, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)
        while True:
            await asyncio.sleep(pause_s)
            for queue in self._queues:
                await self.sweep(queue)

    async def sweep(self, queue: str) -> None:
        """Remove the ended jobs of one queue that are kept no longer."""
        try:
            for state in ("completed", "failed"):
                grace_ms = round(self._retention_s * 1000)
                while len(await self._control.clean(queue, state, grace_ms, _AT_ONCE)) >= _AT_ONCE:
                    pass
        except StoreError as exc:
            log.debug("proxy.sweep_failed", queue=queue, error=exc.message)
