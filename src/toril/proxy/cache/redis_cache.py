"""`AnswerCache` in Redis, shared by all instances: `<prefix>cache:<sha256>` with a time to live, as proxq has it."""

from __future__ import annotations

from toril.redis.links import KeyLink, Links
from toril.redis.script import Script

_CLAIM = Script(
    "claimAnswer",
    """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""",
    keys="claim",
    arguments="who for_ms",
    returns="1 where the claim is theirs, for the first time or again, or 0",
)
_RELEASE = Script(
    "releaseAnswer",
    """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
""",
    keys="claim",
    arguments="who",
    returns="how many keys it removed",
)


class RedisCache:
    """Answers under a prefix.

    Args:
        links: the connections to Redis.
        prefix: of all keys.
        ttl_s: how long an answer is kept.
    """

    def __init__(self, links: Links, prefix: str, ttl_s: float) -> None:
        self._links = links
        self._prefix = f"{prefix}cache:"
        self._ttl_ms = max(1, round(ttl_s * 1000))

    async def get(self, key: str) -> bytes | None:
        """Return what is kept under this key."""
        found: bytes | None = await self._link(key).call("GET", self._prefix + key)
        return found

    async def put(self, key: str, value: bytes) -> None:
        """Keep this for the cache's time."""
        await self._link(key).call("SET", self._prefix + key, value, "PX", self._ttl_ms)

    async def claim(self, key: str, who: bytes, for_s: float) -> bool:
        """Claim the key for a process; return False if another one has claimed it."""
        return bool(await _CLAIM.call(self._links, [f"{self._prefix}{key}:claim"], who, round(for_s * 1000)))

    async def release(self, key: str, who: bytes) -> None:
        """Release the claim."""
        await _RELEASE.call(self._links, [f"{self._prefix}{key}:claim"], who)

    def _link(self, key: str) -> KeyLink:
        return self._links.of((self._prefix + key).encode())
