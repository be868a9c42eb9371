"""Watches whether the ledger answers, and tells when it does not, and when it is back.

Events are deliveries, and without a ledger none is accepted. That it is away is therefore told directly, by one
instance at a time, until the events' target accepts it; if it never did, it is told as a delivery when the ledger is
back. Redis keeps which of the two it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from toril.core.errors import StoreError
from toril.core.operator_event import OperatorEvent
from toril.core.times import moment_text
from toril.delivery.events.event_teller import EventTeller
from toril.delivery.ports import LedgerReader
from toril.telemetry.conditions import FleetCondition, FleetConditions

log = structlog.get_logger(__name__)

_EVERY_S = 1.0
_PATIENCE_S = 2.0
_AFTER = 3
_DIRECTLY_EVERY_S = 5.0


async def ledger_answers(ledger: LedgerReader) -> bool:
    """Return True if the ledger can be written to, and says so within two seconds."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await ledger.check()
    except (StoreError, TimeoutError):
        return False
    return True


class LedgerWatch:
    """Tells of one ledger, which is named `name` in conditions.

    Args:
        ledger: to watch.
        name: names it in conditions.
        conditions: what the fleet knows.
        teller: tells events as deliveries.
        direct: tells an event at once; None on instances that do not deliver to the events' target.
    """

    def __init__(
        self,
        ledger: LedgerReader,
        name: str,
        conditions: FleetConditions,
        teller: EventTeller,
        direct: Callable[[OperatorEvent], Awaitable[bool]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._name = name
        self._conditions = conditions
        self._teller = teller
        self._direct = direct
        self._failed = 0
        self._logged = False
        self._ended = False
        # Since when it is away, where that could not be recorded: its database may be that of the conditions too.
        self._unrecorded_since_s: float | None = None

    async def run(self) -> None:
        """Check once a second until cancelled."""
        while True:
            try:
                await self.look()
            except StoreError as exc:
                log.debug("ledger.not_watched", error=exc.message)
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """Check once, and tell what has changed. Raises `StoreError` where Redis is away."""
        if await ledger_answers(self._ledger):
            self._failed, self._logged = 0, False
            if not self._ended:
                known = await self._over()
                self._ended, self._unrecorded_since_s = True, None
                if known.ended_s and known.since_s:
                    if known.told_s < known.since_s:
                        self._teller.tell(self._away(known))
                    data = {"since": moment_text(known.since_s)}
                    self._teller.tell(OperatorEvent("ledger.back", self._name, known.ended_s, data))
            return
        self._failed += 1
        if self._failed >= _AFTER:
            known = await self._begun()
            if not self._logged:
                log.warning("ledger.unreachable", ledger=self._name, since=moment_text(known.since_s))
            self._ended, self._logged = False, True
            await self._tell_now(known)

    async def _begun(self) -> FleetCondition:
        """Record that the ledger is away, or remember since when, if that cannot be recorded now."""
        if self._unrecorded_since_s is None:
            self._unrecorded_since_s, self._ended = asyncio.get_running_loop().time(), False
        known = await self._conditions.begin("ledger", self._name)
        self._unrecorded_since_s = None
        return known

    async def _over(self) -> FleetCondition:
        """Record that the ledger is back, and that it was away where that could not be recorded."""
        if self._unrecorded_since_s is None:
            return await self._conditions.end("ledger", self._name)
        ago_s = asyncio.get_running_loop().time() - self._unrecorded_since_s
        return await self._conditions.passed("ledger", self._name, ago_s)

    async def _tell_now(self, known: FleetCondition) -> None:
        event = self._away(known)
        if self._direct is None or known.told_s >= known.since_s or not self._teller.wants(event):
            return
        if await self._conditions.claim(f"ledger-told:{self._name}", _DIRECTLY_EVERY_S) and await self._direct(event):
            self._teller.told_directly(event)
            await self._conditions.told("ledger", self._name)

    def _away(self, known: FleetCondition) -> OperatorEvent:
        return OperatorEvent("ledger.unreachable", self._name, known.since_s, {"since": moment_text(known.since_s)})
