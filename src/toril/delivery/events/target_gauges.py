"""Measures how targets fare and whether the ledger answers, for `/metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from toril.core.errors import StoreError
from toril.core.metrics import (
    BREAKER_OPEN,
    LEDGER_UP,
    TARGET_DELIVERIES,
    TARGET_HELD_SECONDS,
    TARGET_OLDEST_SECONDS,
)
from toril.core.ports import Now
from toril.delivery.events.ledger_watch import ledger_answers
from toril.delivery.ports import AnyLedger, Breakers
from toril.delivery.rules.breaker import BreakerState
from toril.delivery.rules.delivery import queue_of
from toril.delivery.rules.target import TargetSpec
from toril.telemetry.gauges import Gauges

log = structlog.get_logger(__name__)

EVERY_S = 5.0
_DEPTHS_EVERY = 3


class TargetGauges:
    """Sets the gauges of the delivery door: the ledger every five seconds, and breakers; depths every fifteen.

    Args:
        specs: all targets.
        breakers: their breakers.
        ledger: has their deliveries.
        gauges: to set.
        now: the wall clock.
    """

    def __init__(
        self,
        specs: Callable[[], Sequence[TargetSpec]],
        breakers: Breakers,
        ledger: AnyLedger,
        gauges: Gauges,
        now: Now,
    ) -> None:
        self._specs = specs
        self._breakers = breakers
        self._ledger = ledger
        self._gauges = gauges
        self._now = now

    async def run(self) -> None:
        """Measure until cancelled."""
        turn = 0
        while True:
            up = await ledger_answers(self._ledger)
            self._gauges.set(LEDGER_UP, (), float(up))
            try:
                await self.look(depths=up and turn % _DEPTHS_EVERY == 0)
                turn += up
            except StoreError as exc:
                log.debug("targets.not_measured", error=exc.message)
            await asyncio.sleep(EVERY_S)

    async def look(self, *, depths: bool) -> None:
        """Measure every target once. Raises `StoreError`."""
        for spec in self._specs():
            labels = (queue_of(spec.name),)
            breaker = await self._breakers.read(spec.name)
            is_open = spec.breaker is not None and breaker.state is not BreakerState.CLOSED
            self._gauges.set(BREAKER_OPEN, labels, float(is_open))
            held_s = max(0.0, (breaker.held_until_s or 0.0) - self._now())
            self._gauges.set(TARGET_HELD_SECONDS, labels, held_s)
            if depths:
                depth = await self._ledger.depth(spec.name)
                for state in ("queued", "dispatching", "retrying", "dead_letters"):
                    self._gauges.set(TARGET_DELIVERIES, (*labels, state), float(getattr(depth, state)))
                oldest_s = 0.0 if depth.oldest_s is None else max(0.0, self._now() - depth.oldest_s)
                self._gauges.set(TARGET_OLDEST_SECONDS, labels, oldest_s)
