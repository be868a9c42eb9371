"""How many attempts of a queue the fleet has made in the last ten minutes, and how many of them failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from toril.core.ports import Now
from toril.telemetry.rules.points import ATTEMPTS_FAILED, WINDOWS, Counts, Scope, Window, queue_scope
from toril.telemetry.rules.series import attempts, summed

WINDOW_S = 600
_POINTS = 10


class AttemptCounts(Struct, frozen=True):
    """How many attempts were made, and how many of them failed."""

    made: int = 0
    failed: int = 0

    @property
    def failure_rate(self) -> float | None:
        """Return the part that failed, from 0 to 1; None without attempts."""
        return round(min(1.0, self.failed / self.made), 4) if self.made else None


class PointsReader(Protocol):
    """Reads the points of the fleet."""

    async def read(self, scopes: Iterable[Scope], window: Window, now_s: float) -> Mapping[Scope, list[Counts]]:
        """Return the points of each scope in a window, the oldest first.

        Raises:
            StoreError: the store did not answer.
        """
        ...


class RecentAttemptCounts:
    """Reads the counts of the last `WINDOW_S` from the statistics."""

    def __init__(self, points: PointsReader, now: Now) -> None:
        self._points = points
        self._now = now

    async def of(self, queues: Sequence[str]) -> dict[str, AttemptCounts]:
        """Return the counts of each of these queues.

        Raises:
            StoreError: the store did not answer.
        """
        scopes = {queue_scope(queue): queue for queue in queues}
        found = await self._points.read(scopes, WINDOWS["1h"], self._now())
        totals = {scopes[scope]: summed(points[-_POINTS:]) for scope, points in found.items()}
        return {queue: AttemptCounts(attempts(total), total.get(ATTEMPTS_FAILED, 0)) for queue, total in totals.items()}
