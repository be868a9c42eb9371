"""The last attempts of each registered worker in Redis: a short list per queue.

Attempts come by the thousand a second and are looked at now and then: they are kept here, the last of each queue, and
written once a second, so that the cost grows with queues that are worked on and not with their jobs.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec
import structlog

from toril.core.errors import StoreError
from toril.queues.rules.attempt import Attempt
from toril.redis.links import Links
from toril.redis.script import Script
from toril.redis.stored_entries import readable

log = structlog.get_logger(__name__)

KEPT = 20
_FLUSH_S = 1.0
_LIFE_MS = 7 * 24 * 3600 * 1000
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Attempt).decode

_PUSH = Script(
    "pushAttempts",
    """
for i = 3, #ARGV do redis.call('LPUSH', KEYS[1], ARGV[i]) end
redis.call('LTRIM', KEYS[1], 0, ARGV[1] - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
""",
    keys="attempts",
    arguments="kept life_ms attempts*",
    returns="1",
)


class RedisAttempts:
    """Lists `toril:recent:{prefix}:{queue}`; run `run()` to have them written."""

    def __init__(self, links: Links, prefix: str) -> None:
        self._links = links
        self._prefix = prefix
        self._new: dict[str, deque[Attempt]] = {}

    def note(self, queue: str, attempt: Attempt) -> None:
        """Remember an attempt, to be written soon."""
        new = self._new.get(queue)
        if new is None:
            new = self._new[queue] = deque(maxlen=KEPT)
        new.append(attempt)

    async def recent(self, queue: str) -> list[bytes]:
        """Return the latest attempts as JSON, the newest first."""
        await self._flush(queue)
        stored: list[bytes] = await self._links.of(self._key(queue).encode()).call("LRANGE", self._key(queue), 0, -1)
        # Each process writes its own now and then: only nearly in order.
        attempts = readable(self._key(queue), stored, _decode)
        return [_encode(attempt) for attempt in sorted(attempts, key=lambda one: -one.at)]

    async def run(self) -> None:
        """Write new attempts until cancelled. Those that Redis does not take are dropped: they are soon outdated."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            for queue in list(self._new):
                try:
                    await self._flush(queue)
                except StoreError as exc:
                    log.debug("attempts.not_written", queue=queue, error=exc.message)

    async def _flush(self, queue: str) -> None:
        new = self._new.pop(queue, None)
        if new is not None:
            await _PUSH.call(self._links, [self._key(queue)], KEPT, _LIFE_MS, *map(_encode, new))

    def _key(self, queue: str) -> str:
        return f"toril:recent:{self._prefix}:{queue}"
