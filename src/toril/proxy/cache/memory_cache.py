"""`AnswerCache` in this process: the least recently used answer goes first."""

from __future__ import annotations

from collections import OrderedDict

from toril.core.ports import Now

MAX_BYTES = 256 * 1024 * 1024


class MemoryCache:
    """At most `max_entries` answers, and `max_bytes` of them together.

    Args:
        ttl_s: how long each is kept.
        max_entries: how many are kept.
        now: any clock that only goes forward.
        max_bytes: of all bodies together.
    """

    def __init__(self, ttl_s: float, max_entries: int, now: Now, max_bytes: int = MAX_BYTES) -> None:
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._now = now
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    async def get(self, key: str) -> bytes | None:
        """Return what is kept under this key."""
        found = self._kept.get(key)
        if found is None:
            return None
        until, value = found
        if until <= self._now():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return value

    async def put(self, key: str, value: bytes) -> None:
        """Keep this, and drop the least recently used where there is no room."""
        self._drop(key)
        self._kept[key] = (self._now() + self._ttl_s, value)
        self._bytes += len(value)
        while len(self._kept) > self._max_entries or self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._bytes -= len(found[1])

    async def claim(self, key: str, who: bytes, for_s: float) -> bool:
        """Return True: no other process shares this cache."""
        return True

    async def release(self, key: str, who: bytes) -> None:
        """Do nothing: there are no claims."""
