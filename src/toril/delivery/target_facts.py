"""Facts about targets for the overview: how many there are, and whose breaker is open."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toril.core.access import Caller, Right
from toril.core.times import moment_text
from toril.delivery.ports import Breakers
from toril.delivery.rules.breaker import BreakerState
from toril.delivery.rules.target import TargetSpec
from toril.web.operations.stats_shapes import Door, Fact


class TargetFacts:
    """A reader of the targets of the delivery door. `specs` are the targets that run here."""

    door: Door = "delivery"

    def __init__(self, specs: Callable[[], Sequence[TargetSpec]], breakers: Breakers) -> None:
        self._specs = specs
        self._breakers = breakers

    def _seen(self, caller: Caller) -> list[TargetSpec]:
        return [spec for spec in self._specs() if caller.may(Right.TARGETS_READ, spec.name)]

    async def facts(self, caller: Caller) -> list[Fact]:
        """Return which breakers are open, or let probes through."""
        facts = []
        for spec in self._seen(caller):
            if spec.breaker is None:
                continue
            breaker = await self._breakers.read(spec.name)
            if breaker.state is BreakerState.CLOSED:
                continue
            since = None if breaker.opened_at_s is None else moment_text(breaker.opened_at_s)
            made = "No attempts are made" if breaker.state is BreakerState.OPEN else "Probes are made"
            text = f"{made}, after {breaker.counted} failures."
            facts.append(Fact("breaker_open", "target", spec.name, since, text))
        return facts

    async def sizes(self, caller: Caller) -> dict[str, int]:
        """Return how many targets there are."""
        return {"targets": len(self._seen(caller))}
