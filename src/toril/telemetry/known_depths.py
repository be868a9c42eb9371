"""The last known depths of queues; each refresh reads a share of them again.

Reading thousands of queues at each scrape would take longer than a scrape may. So a refresh reads the queues that were
read longest ago, both of those that are shown by name and of all others, and ends when its time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import structlog
from msgspec import Struct

from toril.core.errors import StoreError
from toril.core.metrics import QueueDepth
from toril.core.ports import QueueDepths

log = structlog.get_logger(__name__)

FRESH_S = 5.0
BUDGET_S = 2.0
SHARE = 1_000
BATCH = 50


class _KnownDepth(Struct):
    """The depth of a queue. Times are the event loop's; until the first reading, `read_at` is when the queue came."""

    read_at: float
    tried_at: float
    depth: QueueDepth | None = None


class KnownDepths:
    """The depths of the queues that are worked on.

    Args:
        depths: reads queues.
        most_named: how many queues, the first ones by name, are read before all others.
    """

    def __init__(self, depths: QueueDepths, most_named: int) -> None:
        self._depths = depths
        self._most_named = most_named
        self._known: dict[str, _KnownDepth] = {}
        self._reading = asyncio.Lock()
        self._refreshed_at = float("-inf")

    async def refresh(self, queues: Iterable[str]) -> None:
        """Read the share of these queues that is due, at most once in `FRESH_S` and for at most `BUDGET_S`.

        Never raises: a depth that cannot be read gets older.
        """
        loop = asyncio.get_running_loop()
        self._keep(sorted(queues), loop.time())
        try:
            async with asyncio.timeout(BUDGET_S), self._reading:
                if loop.time() - self._refreshed_at > FRESH_S:
                    self._refreshed_at = loop.time()
                    await self._read(self._due())
        except (StoreError, TimeoutError) as exc:
            log.debug("metrics.depths_unread", error=str(exc))

    def shown(self) -> tuple[QueueDepth, ...]:
        """Return all depths that are known."""
        return tuple(known.depth for known in self._known.values() if known.depth is not None)

    def age_s(self) -> float:
        """Return the age of the oldest reading; 0 without queues."""
        now = asyncio.get_running_loop().time()
        return max((now - known.read_at for known in self._known.values()), default=0.0)

    def _keep(self, queues: Sequence[str], now: float) -> None:
        """Keep these queues, by name, and drop all others."""
        before = self._known
        self._known = {queue: before.get(queue) or _KnownDepth(now, float("-inf")) for queue in queues}

    def _due(self) -> list[str]:
        """Return the queues to read, those tried longest ago first: if time is short, each has its turn."""
        queues = list(self._known)
        named, others = queues[: self._most_named], queues[self._most_named :]
        share = [queue for some in (named, others) for queue in sorted(some, key=self._tried_at)[:SHARE]]
        return sorted(share, key=self._tried_at)

    def _tried_at(self, queue: str) -> float:
        return self._known[queue].tried_at

    async def _read(self, due: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        for first in range(0, len(due), BATCH):
            batch = due[first : first + BATCH]
            for queue in batch:
                if queue in self._known:
                    self._known[queue].tried_at = loop.time()
            for depth in await self._depths.read(batch):
                if (known := self._known.get(depth.queue)) is not None:
                    known.depth, known.read_at = depth, loop.time()
