"""Remembers, for the whole fleet, which queues have leases that nobody renews. Called by `toril.engine.pulls`."""

from __future__ import annotations

from collections.abc import Callable

from toril.bull.links import Links

# Behind the end of the last lease its queue is looked after for as long.
_AFTER_MS = 15_000
_MOST = 10_000


class LeasedQueueSet:
    """A sorted set, `toril:leased:{prefix}`: queues, by when the last of their leases ends (milliseconds)."""

    def __init__(self, links: Links, prefix: str, now: Callable[[], float]) -> None:
        self._links = links
        self._key = f"toril:leased:{prefix}".encode()
        self._now = now
        self._noted: dict[str, float] = {}

    async def note(self, queue: str, until_s: float) -> None:
        """This queue may have leases until then."""
        if self._noted.get(queue, 0.0) >= until_s:
            return
        # A little more than asked for, so that a worker that leases all the time does not write this all the time.
        until_s += 5.0
        await self._links.of(self._key).call("ZADD", self._key, "GT", int(until_s * 1000), queue)
        if len(self._noted) > _MOST:
            self._noted.clear()
        self._noted[queue] = until_s

    async def all(self) -> list[str]:
        """The queues that have leases, or have had until a moment ago."""
        link = self._links.of(self._key)
        await link.call("ZREMRANGEBYSCORE", self._key, "-inf", int(self._now() * 1000) - _AFTER_MS)
        found = await link.call("ZRANGE", self._key, 0, _MOST - 1)
        return [name.decode(errors="replace") for name in found]
