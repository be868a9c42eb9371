"""`IdempotencyStore` in Redis."""

from __future__ import annotations

import re

from toril.core.errors import StoreError
from toril.proxy.ports import IdempotencyEntry
from toril.redis.links import Links
from toril.redis.script import Script

_SETTLED, _PENDING = "settled", "pending"
_ENTRY = re.compile(rb"([\x21-\x7e]+) ([\x21-\x7e]+) (settled|pending)\Z")

_CLAIM = Script(
    "claimIdempotencyKey",
    """
local found = redis.call('GET', KEYS[1])
if found and (not ARGV[3] or found ~= ARGV[3]) then return {found, redis.call('PTTL', KEYS[1])} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return false
""",
    keys="entry",
    arguments="new for_ms counts_as_missing?",
    returns="the entry that is there and how many milliseconds it has left, or nothing if the new one is written",
)
_SETTLE = Script(
    "settleIdempotencyKey",
    """
local found = redis.call('GET', KEYS[1])
if not found or found == ARGV[1] or found == ARGV[2] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
""",
    keys="entry",
    arguments="before after for_ms",
    returns="nothing",
)


class RedisIdempotencyStore:
    """Entries under a prefix.

    Args:
        links: the connections to Redis.
        prefix: of all keys.
        ttl_s: how long an entry is known.
    """

    def __init__(self, links: Links, prefix: str, ttl_s: float) -> None:
        self._links = links
        self._prefix = f"{prefix}:toril:idempotency:"
        self._ttl_ms = round(ttl_s * 1000)

    async def claim(
        self, name: str, job_id: str, digest: str, instead_of: IdempotencyEntry | None = None
    ) -> IdempotencyEntry:
        """Return the entry of this name, or else write one for this job."""
        mine = IdempotencyEntry(job_id, digest, settled=False)
        replaced = () if instead_of is None else (_text(instead_of),)
        reply = await _CLAIM.call(self._links, [self._prefix + name], _text(mine), self._ttl_ms, *replaced)
        if reply is None:
            return mine
        entry = _ENTRY.match(reply[0])
        if entry is None:
            raise StoreError("the entry of an idempotency key cannot be read")
        known, of, state = (part.decode() for part in entry.groups())
        age_s = max(0, self._ttl_ms - reply[1]) // 1000
        return IdempotencyEntry(known, of, settled=state == _SETTLED, age_s=age_s)

    async def settle(self, name: str, entry: IdempotencyEntry) -> None:
        """Mark the entry as settled, unless the key has another job by now."""
        pending, settled = (_text(IdempotencyEntry(entry.job_id, entry.digest, settled=done)) for done in (False, True))
        await _SETTLE.call(self._links, [self._prefix + name], pending, settled, self._ttl_ms)


def _text(entry: IdempotencyEntry) -> str:
    return f"{entry.job_id} {entry.digest} {_SETTLED if entry.settled else _PENDING}"
