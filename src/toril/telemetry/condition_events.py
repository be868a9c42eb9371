"""The operations of `FleetConditions` that are one event of a condition each, for every store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from toril.telemetry.conditions import LIFE_S, FleetCondition

Event = Literal["begin", "end", "passed", "told", "look", "crossed", "row"]


class ConditionEvents(ABC):
    """Turns these operations into events; a store says what each event makes of a condition."""

    async def begin(self, kind: str, name: str, life_s: float = LIFE_S, seen_at_s: float = 0.0) -> FleetCondition:
        """As `FleetConditions.begin`."""
        return await self._change(kind, name, "begin", round(seen_at_s * 1e6), life_s=life_s)

    async def end(self, kind: str, name: str) -> FleetCondition:
        """As `FleetConditions.end`."""
        return await self._change(kind, name, "end")

    async def passed(self, kind: str, name: str, ago_s: float) -> FleetCondition:
        """As `FleetConditions.passed`."""
        return await self._change(kind, name, "passed", round(ago_s * 1e6))

    async def look(self, kind: str, name: str) -> FleetCondition:
        """As `FleetConditions.look`."""
        return await self._change(kind, name, "look")

    async def told(self, kind: str, name: str) -> FleetCondition:
        """As `FleetConditions.told`."""
        return await self._change(kind, name, "told")

    async def crossed(self, kind: str, name: str, count: int, share: int) -> FleetCondition:
        """As `FleetConditions.crossed`."""
        return await self._change(kind, name, "crossed", count, share)

    async def row(self, kind: str, name: str, failures: int, *, succeeded: bool) -> FleetCondition:
        """As `FleetConditions.row`."""
        return await self._change(kind, name, "row", failures, int(succeeded))

    @abstractmethod
    async def _change(
        self, kind: str, name: str, event: Event, number: int = 0, share: int = 0, *, life_s: float = LIFE_S
    ) -> FleetCondition:
        """Let an event change a condition in one atomic step, and return it as it is then.

        `number` is microseconds for `begin` and `passed`, and otherwise a count; `share` goes with `crossed`, and is 1
        for a `row` that follows a success.
        """
