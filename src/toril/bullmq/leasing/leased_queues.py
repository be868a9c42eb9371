"""The queues of the whole fleet that have leases which no process renews: those of pull workers."""

from __future__ import annotations

from collections.abc import Callable

from toril.redis.links import Links

# A queue stays in the set for this long after its last lease has ended.
_AFTER_MS = 15_000
_MOST = 10_000


class LeasedQueueSet:
    """A sorted set, `toril:leased:{prefix}`, of queues by the end of their last lease (milliseconds)."""

    def __init__(self, links: Links, prefix: str, now: Callable[[], float]) -> None:
        self._links = links
        self._key = f"toril:leased:{prefix}".encode()
        self._now = now
        self._noted: dict[str, float] = {}

    async def note(self, queue: str, until_s: float) -> None:
        """Record that this queue may have leases until `until_s`."""
        if self._noted.get(queue, 0.0) >= until_s:
            return
        # A little more, so that a worker that leases all the time does not cause a write each time.
        until_s += 5.0
        await self._links.of(self._key).call("ZADD", self._key, "GT", int(until_s * 1000), queue)
        if len(self._noted) > _MOST:
            self._noted.clear()
        self._noted[queue] = until_s

    async def all(self) -> list[str]:
        """Return the queues that have leases, or had some until a moment ago."""
        link = self._links.of(self._key)
        await link.call("ZREMRANGEBYSCORE", self._key, "-inf", int(self._now() * 1000) - _AFTER_MS)
        found = await link.call("ZRANGE", self._key, 0, _MOST - 1)
        return [name.decode(errors="replace") for name in found]
