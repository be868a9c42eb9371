"""The depths of all queues, read for as long as there are requests for them, so that no page waits for thousands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import structlog

from toril.core.errors import StoreError
from toril.core.metrics import QueueDepth
from toril.core.ports import QueueDepths
from toril.telemetry.known_depths import KnownDepths

log = structlog.get_logger(__name__)

PATIENCE_S = 0.25
_MOST_FIRST = 1_000


class WatchedDepths:
    """The depths of all queues. Redis is read only after a request for them.

    Args:
        depths: reads queues.
        names: returns the names of all queues.
    """

    def __init__(self, depths: QueueDepths, names: Callable[[], Awaitable[Iterable[str]]]) -> None:
        self._known = KnownDepths(depths, _MOST_FIRST)
        self._names = names
        self._asked = asyncio.Event()
        self._read = asyncio.Condition()

    async def run(self) -> None:
        """Read whenever someone has asked, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self._known.refresh(await self._names())
            except StoreError as exc:
                log.debug("stats.depths_unread", error=exc.message)
            async with self._read:
                self._read.notify_all()

    async def look(self) -> tuple[QueueDepth, ...]:
        """Return the depths that are known: those of now, if reading them takes but a moment."""
        self._asked.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S), self._read:
                await self._read.wait()
        return self._known.shown()
