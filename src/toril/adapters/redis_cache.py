"""`AnswerCache` in Redis, shared by all instances: `<prefix>cache:<sha256>` with a time to live, as proxq has it."""

from __future__ import annotations

from toril.core.ports.shared import Command

# KEYS: the claim. ARGV: who, for how many milliseconds. Returns 1 where it is theirs (again).
_CLAIM = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
# KEYS: the claim. ARGV: who. Returns how many keys it removed.
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""


class RedisCache:
    """Answers under a prefix.

    Args:
        command: sends one command.
        prefix: of all keys.
        ttl_s: how long an answer is kept.
    """

    def __init__(self, command: Command, prefix: str, ttl_s: float) -> None:
        self._command = command
        self._prefix = f"{prefix}cache:"
        self._ttl_ms = max(1, round(ttl_s * 1000))

    async def get(self, key: str) -> bytes | None:
        """What is kept under this key."""
        found: bytes | None = await self._command("GET", self._prefix + key)
        return found

    async def put(self, key: str, value: bytes) -> None:
        """Keep this for the cache's time."""
        await self._command("SET", self._prefix + key, value, "PX", self._ttl_ms)

    async def claim(self, key: str, who: bytes, for_s: float) -> bool:
        """Be the one who asks, for so long; False where somebody else is."""
        milliseconds = round(for_s * 1000)
        return bool(await self._command("EVAL", _CLAIM, 1, f"{self._prefix}{key}:claim", who, milliseconds))

    async def release(self, key: str, who: bytes) -> None:
        """Be it no more."""
        await self._command("EVAL", _RELEASE, 1, f"{self._prefix}{key}:claim", who)
