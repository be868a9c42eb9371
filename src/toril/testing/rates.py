"""A `RateLimits` in memory."""

from __future__ import annotations

from toril.core.access import RateLimit
from toril.core.ports import Now


class FakeRates:
    """Counts as the real one does, by the clock it is given. `fault` is raised while it is set."""

    def __init__(self, now: Now) -> None:
        self.spent: list[str] = []
        self.fault: Exception | None = None
        self._now = now
        self._free_at: dict[str, int] = {}

    async def spend(self, name: str, limit: RateLimit) -> float:
        """Count one request; return 0, or how long it takes until one would be within the limit."""
        if self.fault is not None:
            raise self.fault
        now, interval = round(self._now() * 1e6), max(1, round(limit.per_s * 1e6 / limit.max))
        full = now + interval * limit.max
        free = min(max(self._free_at.get(name, 0), now), full)
        wait = max(0, free + interval - full)
        if not wait:
            free += interval
            self.spent.append(name)
        self._free_at[name] = free
        return wait / 1e6
