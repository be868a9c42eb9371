"""Why attempts failed in the whole fleet in the last hour: a hash in Redis for each ten minutes, which expires."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import structlog

from toril.core.errors import StoreError
from toril.core.ports import Now
from toril.redis.links import Links
from toril.redis.resp import fields_of
from toril.redis.script import Script
from toril.telemetry.failures import Failure, Why

log = structlog.get_logger(__name__)

_MOST_STORED = 500
_BLOCK_S = 600
_BLOCKS = 6
"""So many whole blocks, and the one that is growing, are read."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Why).decode

ADD = Script(
    "addFailures",
    """
    for i = 4, #ARGV, 2 do
      local stored = redis.call('HGET', KEYS[1], ARGV[i])
      local times = stored and tonumber(string.match(stored, '^%d+')) or 0
      if stored or redis.call('HLEN', KEYS[1]) < tonumber(ARGV[2]) then
        redis.call('HSET', KEYS[1], ARGV[i], string.format('%d:%s', times + tonumber(ARGV[i + 1]), ARGV[3]))
      end
    end
    redis.call('EXPIRE', KEYS[1], ARGV[1])
    return 1
    """,
    keys="block",
    arguments="life_s most last_s reasons_and_times*",
    returns="1; a new reason beyond the most is left out",
)


class RedisFailures:
    """`FleetFailures` in Redis: a hash for each ten minutes, which expires."""

    def __init__(self, links: Links, prefix: str, now: Now) -> None:
        self._links = links
        self._prefix = prefix
        self._now = now

    async def add(self, noted: Counter[Why]) -> None:
        """Add counts. What Redis does not take is dropped; never raises."""
        if not noted:
            return
        now_s = self._now()
        reasons = [part for why, times in noted.items() for part in (_encode(why), times)]
        life_s = (_BLOCKS + 1) * _BLOCK_S
        key = self._key(int(now_s // _BLOCK_S))
        try:
            await ADD.call(self._links, (key,), life_s, _MOST_STORED, f"{now_s:.3f}", *reasons)
        except StoreError as exc:
            log.debug("stats.not_written", key=key, error=exc.message)

    async def recent(self, sees: Callable[[str], bool]) -> list[Failure]:
        """Return why attempts of visible queues failed in the last hour, the most frequent reasons first.

        Raises:
            StoreError: Redis did not answer.
        """
        newest = int(self._now() // _BLOCK_S)
        found: dict[Why, Failure] = {}
        for block in range(newest - _BLOCKS, newest + 1):
            key = self._key(block).encode()
            for field, value in fields_of(await self._links.of(key).call("HGETALL", key)).items():
                one = _read(field, value)
                if one is None or not sees(one.queue):
                    continue
                before = found.get((one.queue, one.reason))
                times = one.times + (0 if before is None else before.times)
                found[one.queue, one.reason] = Failure(one.queue, one.reason, times, one.last_s)
        since_s = self._now() - _BLOCKS * _BLOCK_S
        recent = [one for one in found.values() if one.last_s >= since_s]
        return sorted(recent, key=lambda one: (-one.times, one.queue, one.reason))

    def _key(self, block: int) -> str:
        return f"toril:stats:{self._prefix}:failures:{block}"


def _read(field: bytes, value: bytes) -> Failure | None:
    times, _, last_s = value.partition(b":")
    try:
        queue, reason = _decode(field)
        return Failure(queue, reason, int(times), float(last_s))
    except (ValueError, msgspec.DecodeError):
        return None
