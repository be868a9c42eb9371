"""Watches the ledger for new dead letters, whichever instance made them, and tells each.

The ledger has them, so none is lost with an instance that crashes between its commit and the event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from toril.core.errors import StoreError
from toril.core.operator_event import OperatorEvent
from toril.core.ports import Now
from toril.delivery.events.repeated_look import look_repeatedly
from toril.delivery.ports import DeliveryFilter, LedgerReader
from toril.delivery.rules.delivery import Delivery
from toril.delivery.rules.lifecycle import Status

log = structlog.get_logger(__name__)

EVERY_S = 5.0
_SOON_S = 0.2
_FIRST_S = 600.0
# A ledger under load commits a dead letter up to 20 s after the time that it has in it.
_OVERLAP_S = 60.0
_PAGE = 500


class DeadLetterWatch:
    """Tells the dead letters of all targets.

    Args:
        ledger: has them.
        targets: returns the names of the targets to watch.
        tell: is called with each event.
        now: the wall clock.
    """

    def __init__(
        self,
        ledger: LedgerReader,
        targets: Callable[[], Sequence[str]],
        tell: Callable[[OperatorEvent], None],
        now: Now,
    ) -> None:
        self._ledger = ledger
        self._targets = targets
        self._tell = tell
        self._now = now
        self._since_s = now() - _FIRST_S
        self._wake = asyncio.Event()

    def soon(self) -> None:
        """Look within a moment: a delivery may have been given up."""
        self._wake.set()

    async def run(self) -> None:
        """Look every five seconds, and soon when asked to, until cancelled."""
        await look_repeatedly(self.look, self._wake, self._not_watched, every_s=EVERY_S, soon_s=_SOON_S)

    async def look(self) -> None:
        """Tell the dead letters since the last look. Raises `StoreError`; the next look then begins where this did."""
        began_s, before = self._now(), None
        which = DeliveryFilter(
            targets=tuple(self._targets()),
            statuses=(Status.DEAD_LETTERED,),
            since_s=self._since_s - _OVERLAP_S,
            by_end=True,
        )
        while page := await self._ledger.page(which, before=before, limit=_PAGE):
            for one in page:
                self._tell(_event(one))
            before = page[-1].job_id
        self._since_s = began_s

    def _not_watched(self, exc: StoreError) -> None:
        log.debug("dead_letters.not_watched", error=exc.message)


def _event(one: Delivery) -> OperatorEvent:
    data = {
        "target": one.target,
        "job_id": one.job_id,
        "reason": one.reason,
        "attempts_made": one.attempts_made,
        "last_error": one.last_error,
        "labels": dict(one.labels),
    }
    at_s = one.finished_at_s or one.updated_at_s
    return OperatorEvent("delivery.dead_lettered", f"{one.job_id}.{one.seq}", at_s, data, target=one.target)
