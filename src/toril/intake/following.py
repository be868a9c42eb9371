"""Waits for deliveries to move, on any instance: one question to the ledger for all who wait, a few times a second.

Called by `toril.gateway.deliveries`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from toril.core.delivery import Delivery
from toril.core.errors import StoreError
from toril.core.lifecycle import TERMINAL
from toril.core.ports.ledger import LedgerReader

log = structlog.get_logger(__name__)

_LOOK_S = 0.2

Moved = Callable[[Delivery], bool]


class Following:
    """Lets callers wait.

    Args:
        ledger: what is asked. Nothing is asked while nobody waits.
    """

    def __init__(self, ledger: LedgerReader) -> None:
        self._ledger = ledger
        self._waiting: dict[str, list[tuple[Moved, asyncio.Event]]] = {}
        self._somebody = asyncio.Event()
        self._closed = False

    async def wait(self, job_id: str, after: int | None, wait_s: float) -> None:
        """Wait until a delivery has a transition behind `after` (None: until it is terminal), or the time is over.

        Also returns when it is gone, or the instance shuts down.
        """
        if self._closed or wait_s <= 0:
            return

        def moved(one: Delivery) -> bool:
            return one.status in TERMINAL if after is None else one.seq > after

        waiter = (moved, asyncio.Event())
        self._waiting.setdefault(job_id, []).append(waiter)
        self._somebody.set()
        try:
            async with asyncio.timeout(wait_s):
                await waiter[1].wait()
        except TimeoutError:
            return
        finally:
            self._waiting[job_id].remove(waiter)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def close(self) -> None:
        """Nobody waits any more."""
        self._closed = True
        for waiters in self._waiting.values():
            for _, over in waiters:
                over.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._somebody.wait()
            if not self._waiting:
                self._somebody.clear()
                continue
            await self._look()
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        job_ids = list(self._waiting)
        try:
            found = await self._ledger.some(job_ids)
        except StoreError as exc:
            log.debug("following.failed", error=exc.message)
            return
        for job_id in job_ids:
            one = found.get(job_id)
            for moved, over in self._waiting.get(job_id, ()):
                if one is None or moved(one):
                    over.set()
