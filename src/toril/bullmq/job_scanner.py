"""Walks through the jobs of a queue by state, in steps that take Redis well under 5 ms, whatever their number.

A walk knows its place by the job that it came to last. Of the sorted sets that is exact: whatever comes or goes, the
walk goes on behind that job, or at its score where it is gone. Lists shift under a walk: the job is looked for around
where it stood. Where it is gone, the walk goes on where its successor stands; but of a list that is walked from its
oldest job, which is the end that workers take from, it begins again, since all before it is gone too.
"""

from __future__ import annotations

from collections.abc import Sequence

from toril.bullmq.keys import LISTS, STORED_AS, QueueKeys, expected_types
from toril.bullmq.lua.large_reads import Jobs, LargeReads
from toril.bullmq.lua.queue_script import QueueScript
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.ports.scanning import Walked
from toril.bullmq.rules.place import WalkPlace
from toril.core.stored_job import Fields
from toril.redis.resp import pack

_OVERLAP = 100
_SHIFTED = 5000
"""How far a list may have shifted, in either direction, for the walk to find its place again."""

# Where the member is gone, or has another score, it begins with the first one that has the score.
_NEXT_IN_SET = QueueScript(
    "nextInSet",
    b"""
local reverse, first = ARGV[3] == '1', 0
if ARGV[2] ~= '' then
  local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if score and tonumber(score) == tonumber(ARGV[2]) then
    first = redis.call(reverse and 'ZREVRANK' or 'ZRANK', KEYS[1], ARGV[1]) + 1
  elseif reverse then
    first = redis.call('ZCOUNT', KEYS[1], '(' .. ARGV[2], '+inf')
  else
    first = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[2])
  end
end
return redis.call(reverse and 'ZREVRANGE' or 'ZRANGE', KEYS[1], first, first + ARGV[4] - 1, 'WITHSCORES')
""",
    keys="{set}",
    arguments="behind_member its_score_or_nothing highest_first count",
    returns="the next members of the sorted set and their scores, in turn",
)


class RedisJobScanner:
    """Walks through jobs, and reads them, over the connection for large reads.

    Args:
        scripts: over that connection.
        prefix: BullMQ's.
    """

    def __init__(self, scripts: Scripts, prefix: str) -> None:
        self._scripts = scripts
        self._prefix = prefix
        self._large = LargeReads(scripts)

    async def walk(
        self, queue: str, states: Sequence[str], place: WalkPlace, count: int, *, oldest_first: bool
    ) -> Walked | None:
        """Return the next jobs after a place, all of one state; None if there are no more."""
        keys = QueueKeys(self._prefix, queue)
        for number in range(place.state, len(states)):
            at = place if number == place.state else WalkPlace(number)
            step = self._of_list if states[number] in LISTS else self._of_set
            with expected_types(queue):
                walked = await step(keys, states[number], at, count, oldest_first)
            if walked.ids:
                return walked
        return None

    async def fields(self, queue: str, job_ids: Sequence[bytes], fields: Sequence[bytes]) -> list[Fields]:
        """Return these fields of the first of these jobs, as many as make about a megabyte."""
        return await self._large.fields(QueueKeys(self._prefix, queue), job_ids, fields)

    async def jobs(self, queue: str, job_ids: Sequence[bytes], most_bytes: int) -> Jobs:
        """Return the existing ones of these jobs, the first ones that make about so many bytes."""
        found: Jobs = []
        size = 0
        async for piece in self._large.of_ids(QueueKeys(self._prefix, queue), job_ids):
            for job_id, fields in piece:
                found.append((job_id, fields))
                size += sum(map(len, fields.values()))
                if size >= most_bytes:
                    return found
        return found

    async def _of_set(self, keys: QueueKeys, state: str, place: WalkPlace, count: int, oldest_first: bool) -> Walked:
        behind = (place.after, place.score, "01"[not oldest_first], count)
        flat = await self._scripts.call(_NEXT_IN_SET, keys, *behind, set=state)
        return Walked(state, place.state, flat[::2], flat[1::2], 0)

    async def _of_list(self, keys: QueueKeys, state: str, place: WalkPlace, count: int, oldest_first: bool) -> Walked:
        key, was = keys.key(STORED_AS.get(state, state)), place.position
        start = 0
        if place.after:
            start = 0 if oldest_first else was
            for before, size in ((_OVERLAP, _OVERLAP + count), (_SHIFTED, 2 * _SHIFTED)):
                first = max(0, was - before)
                ids = await self._part(keys, key, first, size, oldest_first)
                if place.after in ids:
                    behind = ids.index(place.after) + 1
                    if behind < len(ids):
                        return Walked(state, place.state, ids[behind : behind + count], (), first + behind)
                    start = first + behind
                    break
        return Walked(state, place.state, await self._part(keys, key, start, count, oldest_first), (), start)

    async def _part(self, keys: QueueKeys, key: bytes, first: int, count: int, oldest_first: bool) -> list[bytes]:
        window = (-first - count, -first - 1) if oldest_first else (first, first + count - 1)
        ids: list[bytes]
        (ids,) = await self._scripts.read(keys.prefix, pack("LRANGE", key, *window))
        return ids[::-1] if oldest_first else ids
