"""Conditions that last, such as a breaker that is open. The fleet shares them, and so tells each once.

A condition has a beginning and an end by the clock of its store. Every instance that sees it gets the same times, and
so makes the same events of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

TOLD_EVERY_S = 60.0
ROW = 5
LIFE_S = 7 * 24 * 3600.0


class FleetCondition(Struct, frozen=True):
    """A condition as it is now; times are 0 where there is none. What was told at `told_s` is share and count."""

    since_s: float
    ended_s: float
    active: bool
    row: int
    pending: int
    told_s: float
    told_share: int
    told_count: int


class FleetConditions(Protocol):
    """The conditions of a fleet, by kind and name. Each call is one atomic step, and raises `StoreError`."""

    async def begin(self, kind: str, name: str, life_s: float = LIFE_S, seen_at_s: float = 0.0) -> FleetCondition:
        """Let a condition begin, unless it has already. It is forgotten `life_s` after the last call.

        One that was seen at `seen_at_s` by the clock of the store (0 for now) and has ended since does not begin again.
        """
        ...

    async def end(self, kind: str, name: str) -> FleetCondition:
        """Let a condition end, unless it has already."""
        ...

    async def passed(self, kind: str, name: str, ago_s: float) -> FleetCondition:
        """Record a condition that began so long ago and ends now, unless its end is known already."""
        ...

    async def look(self, kind: str, name: str) -> FleetCondition:
        """Return a condition; what waits to be told may be told now."""
        ...

    async def told(self, kind: str, name: str) -> FleetCondition:
        """Record that a condition has been told."""
        ...

    async def crossed(self, kind: str, name: str, count: int, share: int) -> FleetCondition:
        """Record that so many have crossed a threshold, the highest of which is `share`."""
        ...

    async def row(self, kind: str, name: str, failures: int, *, succeeded: bool) -> FleetCondition:
        """Record failures in a row, after a success if there was one: the fifth begins the condition."""
        ...

    async def mark(self, kind: str, names: Sequence[str]) -> None:
        """Mark conditions that may have begun, so that other instances look at them."""
        ...

    async def marked(self, kind: str) -> set[str]:
        """Return the names that are marked."""
        ...

    async def unmark(self, kind: str, names: Sequence[str], for_s: float) -> None:
        """Forget the marks of those of these names that were not marked for so long."""
        ...

    async def claim(self, kind: str, for_s: float) -> bool:
        """Return True on one instance of the fleet, for so long."""
        ...
