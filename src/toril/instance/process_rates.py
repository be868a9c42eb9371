"""Rate limits of tokens in memory, for an instance without Redis: each process counts for itself."""

from __future__ import annotations

from toril.core.access import RateLimit
from toril.core.ports import Now


class ProcessRates:
    """`RateLimits` of one process: GCRA, as `toril.web.redis_rates` explains. `now` runs evenly."""

    def __init__(self, now: Now) -> None:
        self._now = now
        self._free_at_s: dict[str, float] = {}

    async def spend(self, name: str, limit: RateLimit) -> float:
        """Count one request; return 0, or after how long one would be within the limit."""
        now_s, interval_s = self._now(), limit.per_s / limit.max
        full_s = now_s + limit.per_s
        free_s = min(max(self._free_at_s.get(name, 0.0), now_s), full_s) + interval_s
        wait_s = max(0.0, free_s - full_s)
        # Adding up intervals is exact to a few bits only.
        if wait_s < interval_s * 1e-6:
            self._free_at_s[name] = free_s
            return 0.0
        return wait_s
