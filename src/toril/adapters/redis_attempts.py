"""The last attempts of each registered worker in Redis: a short list per queue.

Attempts come by the thousand a second and are looked at now and then: they are kept here, the last of each queue, and
written once a second, so that the cost grows with queues that are worked on and not with their jobs.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec
import structlog

from toril.core.attempt import Attempt
from toril.core.errors import StoreError
from toril.core.ports.shared import Command

log = structlog.get_logger(__name__)

KEPT = 20
_FLUSH_S = 1.0
_LIFE_MS = 7 * 24 * 3600 * 1000
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Attempt).decode

# KEYS[1] the list; ARGV[1] how many it keeps, ARGV[2] how long (milliseconds), ARGV[3…] attempts. Returns 1.
_PUSH = """
for i = 3, #ARGV do redis.call('LPUSH', KEYS[1], ARGV[i]) end
redis.call('LTRIM', KEYS[1], 0, ARGV[1] - 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""


class RedisAttempts:
    """Lists `toril:recent:{prefix}:{queue}`; run `run()` to have them written."""

    def __init__(self, command: Command, prefix: str) -> None:
        self._command = command
        self._prefix = prefix
        self._new: dict[str, deque[Attempt]] = {}

    def note(self, queue: str, attempt: Attempt) -> None:
        """Remember one, to be written soon."""
        new = self._new.get(queue)
        if new is None:
            new = self._new[queue] = deque(maxlen=KEPT)
        new.append(attempt)

    async def recent(self, queue: str) -> list[bytes]:
        """The newest as JSON, the newest first."""
        await self._flush(queue)
        stored: list[bytes] = await self._command("LRANGE", self._key(queue), 0, -1)
        # Each process writes its own now and then: only nearly in order.
        return [_encode(attempt) for attempt in sorted(map(_decode, stored), key=lambda one: -one.at)]

    async def run(self) -> None:
        """Write what is new, until cancelled. What Redis does not take is gone: it is of use for a while only."""
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
            await self._command("EVAL", _PUSH, 1, self._key(queue), KEPT, _LIFE_MS, *map(_encode, new))

    def _key(self, queue: str) -> str:
        return f"toril:recent:{self._prefix}:{queue}"
