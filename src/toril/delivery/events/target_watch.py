"""Watches the targets that are delivered to here: breakers that open, deliveries that use up their attempts.

What it sees is kept as conditions in Redis, which every instance looks at. So a fact is also told when the instance
that saw it has crashed, and several that see it make one event of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from toril.core.errors import StoreError
from toril.core.lease import Lease
from toril.core.operator_event import OperatorEvent
from toril.core.outcome import Outcome
from toril.core.ports import Now
from toril.core.times import moment_text
from toril.core.verdict import Complete, DeadLetter, Retry, Verdict
from toril.delivery.events.repeated_look import look_repeatedly
from toril.delivery.ports import Breakers
from toril.delivery.rules.breaker import Breaker, BreakerState
from toril.delivery.rules.destination import ATTEMPTS
from toril.delivery.rules.journal_entry import entry_of
from toril.delivery.rules.target import TargetSpec
from toril.telemetry.conditions import FleetCondition, FleetConditions

log = structlog.get_logger(__name__)

LOOK_S = 1.0
SHARES = (50, 90, 100)
_ALL_EVERY_S = 10.0
_TOLD_FOR_S = 600.0
"""Facts that are older have been told, or the whole fleet was away for so long."""


def crossed(spent: int, most: int) -> int:
    """Return the highest threshold, in percent, that the attempt number `spent` of `most` has reached; 0 for none."""
    return max((share for share in SHARES if spent * 100 >= share * most > (spent - 1) * 100), default=0)


class TargetWatch:
    """Tells of the targets of one process.

    Args:
        specs: the targets that are delivered to here.
        breakers: their breakers.
        conditions: what the fleet knows.
        tell: is called with each event.
        now: the wall clock.
        dead: is called when a delivery was given up.
    """

    def __init__(
        self,
        specs: Callable[[], Sequence[TargetSpec]],
        breakers: Breakers,
        conditions: FleetConditions,
        tell: Callable[[OperatorEvent], None],
        now: Now,
        dead: Callable[[], None],
    ) -> None:
        self._specs = specs
        self._breakers = breakers
        self._conditions = conditions
        self._tell = tell
        self._now = now
        self._dead = dead
        self._wake = asyncio.Event()
        self._shares: dict[str, tuple[int, int]] = {}
        self._succeeded: set[str] = set()
        self._failing: set[str] = set()
        self._changes: list[tuple[str, Breaker]] = []
        # Targets that may have something to tell within a second; all others are looked at every ten.
        self._noted: set[str] = set()
        self._looked_at_all_s = float("-inf")

    def attempted(self, lease: Lease, outcome: Outcome, verdict: Verdict) -> None:
        """Note an attempt: which share of its attempts its delivery has used up, or that it succeeded."""
        entry = entry_of(lease)
        if entry is None:
            return
        delivery = entry.begun.delivery
        match verdict:
            case Complete():
                if delivery.target in self._failing:
                    self._succeeded.add(delivery.target)
                    self._wake.set()
            case Retry() | DeadLetter():
                self._dead()
                most = next((one.retry.max_attempts for one in self._specs() if one.name == delivery.target), 1)
                used_up = isinstance(verdict, DeadLetter) and verdict.reason == ATTEMPTS
                share = 100 if used_up else crossed(delivery.attempts_made + 1, most)
                if share and (used_up or isinstance(verdict, Retry)):
                    count, highest = self._shares.get(delivery.target, (0, 0))
                    self._shares[delivery.target] = (count + 1, max(highest, share))
                    self._wake.set()

    def breaker_changed(self, target: str, breaker: Breaker) -> None:
        """Note that a breaker has opened or closed."""
        self._changes.append((target, breaker))
        self._wake.set()

    async def run(self) -> None:
        """Look at what has changed at once, at targets in trouble once a second, and at all others every ten."""
        await look_repeatedly(self.look, self._wake, self._not_watched, every_s=LOOK_S)

    async def look(self) -> None:
        """Tell everything that is so now. Raises `StoreError`; what was noted is then told by the next look."""
        while self._changes:
            await self._changed(*self._changes[0])
            self._changes.pop(0)
        for target, (count, share) in list(self._shares.items()):
            await self._conditions.crossed("failing", target, count, share)
            del self._shares[target]
            self._noted.add(target)
        while self._succeeded:
            target = next(iter(self._succeeded))
            await self._conditions.end("failing", target)
            self._succeeded.discard(target)
        now_s = self._now()
        looks_at_all = now_s - self._looked_at_all_s >= _ALL_EVERY_S
        for spec in self._specs():
            if not looks_at_all and spec.name not in self._noted:
                continue
            self._noted.discard(spec.name)
            if spec.breaker is not None:
                await self._breaker(spec.name, await self._breakers.read(spec.name))
            self._failed(spec.name, await self._conditions.look("failing", spec.name))
        if looks_at_all:
            self._looked_at_all_s = now_s

    async def _changed(self, target: str, breaker: Breaker) -> None:
        """Tell of a breaker that has changed, perhaps some time ago: another instance may have changed it since."""
        if breaker.state is BreakerState.CLOSED:
            breaker = await self._breakers.read(target)
        await self._breaker(target, breaker)

    async def _breaker(self, target: str, breaker: Breaker) -> None:
        is_closed = breaker.state is BreakerState.CLOSED
        if is_closed:
            known = await self._conditions.end("breaker", target)
        else:
            self._noted.add(target)
            known = await self._conditions.begin("breaker", target, seen_at_s=breaker.opened_at_s or 0.0)
        data = {"target": target, "since": moment_text(known.since_s)}
        if known.active and not is_closed:
            self._tell(
                OperatorEvent(
                    "breaker.opened", target, known.since_s, data | {"failures": breaker.failures}, target=target
                )
            )
        elif self._recent(known.ended_s):
            self._tell(OperatorEvent("breaker.closed", target, known.ended_s, data, target=target))

    def _failed(self, target: str, known: FleetCondition) -> None:
        if known.active:
            self._failing.add(target)
            self._noted.add(target)
        else:
            self._failing.discard(target)
        if self._recent(known.told_s):
            data = {"target": target, "attempts_used_percent": known.told_share, "deliveries": known.told_count}
            self._tell(OperatorEvent("target.failing", target, known.told_s, data, target=target))
        if self._recent(known.ended_s):
            data = {"target": target, "since": moment_text(known.since_s)}
            self._tell(OperatorEvent("target.recovered", target, known.ended_s, data, target=target))

    def _not_watched(self, exc: StoreError) -> None:
        log.debug("targets.not_watched", error=exc.message)

    def _recent(self, at_s: float) -> bool:
        return at_s > self._now() - _TOLD_FOR_S
