"""Lets requests wait for a transition of a delivery, made by any instance.

One query to the ledger, a few times a second, serves all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from toril.core.errors import StoreError
from toril.delivery.ports import LedgerReader
from toril.delivery.rules.delivery import Delivery
from toril.delivery.rules.lifecycle import TERMINAL

log = structlog.get_logger(__name__)

_LOOK_S = 0.2

Moved = Callable[[Delivery], bool]


class TransitionWaiter:
    """Waits for transitions.

    Args:
        ledger: is queried while at least one request waits.
    """

    def __init__(self, ledger: LedgerReader) -> None:
        self._ledger = ledger
        self._waiting: dict[str, list[tuple[Moved, asyncio.Event]]] = {}
        self._has_waiters = asyncio.Event()
        self._closed = False

    async def wait(self, job_id: str, after: int | None, wait_s: float) -> None:
        """Wait until a delivery has a transition after `after` (None: until it is terminal), or `wait_s` has passed.

        Also returns when the delivery is removed, or the instance shuts down.
        """
        if self._closed or wait_s <= 0:
            return

        def moved(one: Delivery) -> bool:
            return one.status in TERMINAL if after is None else one.seq > after

        waiter = (moved, asyncio.Event())
        self._waiting.setdefault(job_id, []).append(waiter)
        self._has_waiters.set()
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
        """Let all waiting requests return now, and later ones at once."""
        self._closed = True
        for waiters in self._waiting.values():
            for _, over in waiters:
                over.set()

    async def run(self) -> None:
        """Query the ledger until cancelled."""
        while True:
            await self._has_waiters.wait()
            if not self._waiting:
                self._has_waiters.clear()
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
