"""The points of statistics in Redis: a hash per queue or door, resolution and block of time, which expires.

All processes of all instances add to the same points. A queue without traffic has no key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import structlog

from toril.core.errors import ConnectionLost, StoreError, StoreTimeout, StoreUnavailable, unwrapped
from toril.redis.links import Links
from toril.redis.resp import fields_of
from toril.redis.script import Script
from toril.telemetry.rules.points import Counts, Resolution, Scope, Window

log = structlog.get_logger(__name__)

_BATCH = 100
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Counts).decode

ADD = Script(
    "addPoints",
    """
    for i = 2, #ARGV, 2 do
      local counts = cmsgpack.unpack(ARGV[i + 1])
      local stored = redis.call('HGET', KEYS[1], ARGV[i])
      if stored then
        for number, count in pairs(cmsgpack.unpack(stored)) do counts[number] = (counts[number] or 0) + count end
      end
      redis.call('HSET', KEYS[1], ARGV[i], cmsgpack.pack(counts))
    end
    redis.call('EXPIRE', KEYS[1], ARGV[1])
    return 1
    """,
    keys="block",
    arguments="life_s slots_and_counts*",
    returns="1; each count was added to what its point had",
)

Points = Mapping[tuple[Scope, int], Counts]
"""Counts by scope and number of the point."""


class RedisPoints:
    """Adds to points, and reads them."""

    def __init__(self, links: Links, prefix: str) -> None:
        self._links = links
        self._prefix = prefix

    async def add(self, resolution: Resolution, points: Points) -> dict[tuple[Scope, int], Counts]:
        """Add counts to points; return those that could not be sent, to be added later. Never raises.

        Where Redis' answer was lost it is unknown whether they were added: those are not added again, because too few
        are less wrong than twice as many.
        """
        blocks: dict[tuple[Scope, int], dict[int, Counts]] = {}
        for (scope, slot), counts in points.items():
            blocks.setdefault((scope, resolution.block(slot)), {})[slot] = counts
        unsent: dict[tuple[Scope, int], Counts] = {}
        every = list(blocks.items())
        for first in range(0, len(every), _BATCH):
            some = every[first : first + _BATCH]
            async with asyncio.TaskGroup() as tasks:
                adding = [tasks.create_task(self._add(resolution, *place, slots)) for place, slots in some]
            for task, ((scope, _), slots) in zip(adding, some, strict=True):
                if not task.result():
                    unsent |= {(scope, slot): counts for slot, counts in slots.items()}
        return unsent

    async def _add(self, resolution: Resolution, scope: Scope, block: int, slots: Mapping[int, Counts]) -> bool:
        key = scope.key(self._prefix, resolution, block)
        arguments = [part for slot, counts in slots.items() for part in (slot, _encode(counts))]
        try:
            await ADD.call(self._links, (key,), resolution.life_s, *arguments)
        except (ConnectionLost, StoreTimeout) as exc:
            log.debug("stats.not_written", key=key, error=exc.message)
        except StoreUnavailable:
            return False
        except StoreError as exc:
            log.debug("stats.not_written", key=key, error=exc.message)
        return True

    async def read(self, scopes: Iterable[Scope], window: Window, now_s: float) -> dict[Scope, list[Counts]]:
        """Return the points of each scope in a window, the oldest first.

        Raises:
            StoreError: Redis did not answer.
        """
        blocks = list(window.blocks(now_s))
        wanted = [(scope, block) for scope in dict.fromkeys(scopes) for block in blocks]
        found: dict[Scope, dict[int, Counts]] = {scope: {} for scope, _ in wanted}
        for first in range(0, len(wanted), _BATCH):
            some = wanted[first : first + _BATCH]
            with unwrapped():
                async with asyncio.TaskGroup() as tasks:
                    reading = [tasks.create_task(self._block(window.resolution, *place)) for place in some]
            for (scope, _), task in zip(some, reading, strict=True):
                found[scope] |= task.result()
        first = window.first(now_s)
        return {scope: _in_order(slots, range(first, first + window.points)) for scope, slots in found.items()}

    async def _block(self, resolution: Resolution, scope: Scope, block: int) -> dict[int, Counts]:
        key = scope.key(self._prefix, resolution, block).encode()
        fields = fields_of(await self._links.of(key).call("HGETALL", key))
        try:
            return {int(slot): _decode(counts) for slot, counts in fields.items()}
        except (ValueError, msgspec.DecodeError):
            log.warning("stats.unreadable", key=key.decode())
            return {}


def _in_order(slots: Mapping[int, Counts], wanted: Sequence[int]) -> list[Counts]:
    return [slots.get(slot, {}) for slot in wanted]
