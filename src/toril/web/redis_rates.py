"""Rate limits of tokens in Redis, so that all processes of a fleet count together: GCRA, one key per name, one call.

The Generic Cell Rate Algorithm keeps one number, the time at which the name would have used up nothing of its limit.
A request moves it on by one interval, and is refused when that would take it further ahead than the limit allows.
Redis' clock counts, so those of the instances need not agree.
"""

from __future__ import annotations

from toril.core.access import RateLimit
from toril.redis.links import Links
from toril.redis.script import Script

# The key holds the time, in microseconds since the epoch, at which everything is free again; it lapses then.
_SPEND = Script(
    "spend",
    """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local interval = tonumber(ARGV[1])
local full = now + interval * ARGV[2]
local known = tonumber(redis.call('GET', KEYS[1]) or 0)
-- What was counted under a longer limit, or before the clock was set back, counts for no more than all of this one.
local free = math.min(math.max(known, now), full)
local wait = math.max(0, free + interval - full)
if wait == 0 then free = free + interval end
if wait == 0 or known > full then
  redis.call('SET', KEYS[1], string.format('%.0f', free), 'PX', math.ceil((free - now) / 1000))
end
return wait
""",
    keys="free_at",
    arguments="interval_us burst",
    returns="0 when the request is counted, else after how many microseconds one will be",
)


class RedisRates:
    """`RateLimits` in Redis. A name's key is the only one of its call, so a cluster can have it anywhere."""

    def __init__(self, links: Links) -> None:
        self._links = links

    async def spend(self, name: str, limit: RateLimit) -> float:
        """Count one request in one round trip; return 0, or after how long one would be within the limit."""
        interval_us = max(1, round(limit.per_s * 1_000_000 / limit.max))
        wait_us = await _SPEND.call(self._links, [f"toril:rate:{name}"], interval_us, limit.max)
        return int(wait_us) / 1_000_000
