"""Reads many jobs or log lines in pieces. Each reply of Redis has about a megabyte, plus one job or line at most.

It uses a separate connection, so that leases, their renewals and adds never wait for such a reply. Since each reply is
short, Redis serves other connections between two of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from toril.bullmq.keys import LISTS, STORED_AS, QueueKeys
from toril.bullmq.lua.queue_script import QueueScript
from toril.bullmq.lua.scripts import Scripts
from toril.core.stored_job import Fields
from toril.redis.resp import fields_of, pack

REPLY_BYTES = 2**20
"""A reply ends with the job or line that makes it this long."""

_IDS_AT_ONCE = 200
_LINES_AT_ONCE = 1000
# How often BullMQ's getJobs reads again to fill a page from which jobs were removed meanwhile.
_BACKFILL = 5

_READ_HASHES = QueueScript(
    "readHashes",
    b"""
local found, bytes = {}, 0
for i = 2, #ARGV do
  local flat = redis.pcall('HGETALL', KEYS[1] .. ARGV[i])
  if flat.err then
    local kind = redis.call('TYPE', KEYS[1] .. ARGV[i])['ok']
    if kind == 'hash' then return flat end
    flat = {'failedReason', "The job's key in Redis holds a " .. kind .. ", not a hash"}
  end
  for j = 1, #flat do bytes = bytes + #flat[j] end
  found[#found + 1] = flat
  if bytes >= tonumber(ARGV[1]) then break end
end
return found
""",
    keys="prefix",
    arguments="enough_bytes job_ids*",
    returns="the hashes of the first of these jobs: an empty one if there is no such job, and one with only a "
    "failedReason if the key holds another type of value",
)

# A job whose key holds another type of value has none of the fields.
_READ_FIELDS = QueueScript(
    "readFields",
    b"""
local found, bytes, count = {}, 0, tonumber(ARGV[2])
local names = {unpack(ARGV, 3, 2 + count)}
for i = 3 + count, #ARGV do
  local values = redis.pcall('HMGET', KEYS[1] .. ARGV[i], unpack(names))
  for j = 1, count do
    local value = values[j]
    if value then bytes = bytes + #value end
    found[#found + 1] = value or false
  end
  if bytes >= tonumber(ARGV[1]) then break end
end
return found
""",
    keys="prefix",
    arguments="enough_bytes count fields* job_ids*",
    returns="the values of the first of these jobs, one job behind the other; nothing in place of a missing one",
)

# Elements are counted from 0.
_READ_LINES = QueueScript(
    "readLines",
    b"""
local found, bytes = {}, 0
local at, last = tonumber(ARGV[2]), tonumber(ARGV[3])
while at <= last and bytes < tonumber(ARGV[1]) do
  local lines = redis.call('LRANGE', KEYS[1], at, math.min(last, at + 9))
  if #lines == 0 then break end
  for i = 1, #lines do
    bytes = bytes + #lines[i]
    found[#found + 1] = lines[i]
    if bytes >= tonumber(ARGV[1]) then break end
  end
  at = at + #lines
end
return found
""",
    keys="{list}",
    arguments="enough_bytes first last",
    returns="the first of these elements, until they have enough bytes",
)

Jobs = list[tuple[bytes, Fields]]


class LargeReads:
    """Reads jobs and lines in pieces, on the connections of `scripts`."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def jobs(
        self,
        keys: QueueKeys,
        states: Sequence[str],
        window: tuple[int, int],
        *,
        oldest_first: bool,
        fields: Sequence[bytes] = (),
    ) -> AsyncGenerator[Jobs, None]:
        """Yield the jobs of these states, one state after another, in pieces of about `REPLY_BYTES`.

        With `fields` only these of their hashes; every job has to have one of them.
        """
        for state in states:
            async for piece in self._of_state(keys, STORED_AS.get(state, state), window, oldest_first, fields):
                yield piece

    async def _of_state(
        self, keys: QueueKeys, state: str, window: tuple[int, int], oldest_first: bool, fields: Sequence[bytes]
    ) -> AsyncGenerator[Jobs, None]:
        start, end = window
        if start < 0 or end < 0:  # the window as it is: jobs that were removed leave gaps
            async for piece in self.of_ids(keys, await self._ids(keys, state, window, oldest_first), fields):
                yield piece
            return
        needed = size = end - start + 1
        for _ in range(_BACKFILL):
            ids = await self._ids(keys, state, (start, start + size - 1), oldest_first)
            async for piece in self.of_ids(keys, ids, fields):
                yield piece[:needed]
                needed -= len(piece)
                if needed <= 0:
                    return
            if len(ids) < size:
                return
            start += len(ids)

    async def of_ids(
        self, keys: QueueKeys, ids: Sequence[bytes], fields: Sequence[bytes] = ()
    ) -> AsyncGenerator[Jobs, None]:
        """Yield the jobs with these ids that are there, in pieces of about `REPLY_BYTES`."""
        at = 0
        while at < len(ids):
            some = ids[at : at + _IDS_AT_ONCE]
            if fields:
                parts = await self.fields(keys, some, fields)
                yield [(job_id, part) for job_id, part in zip(some, parts, strict=False) if part]
                at += len(parts)
                continue
            hashes = await self._scripts.call(_READ_HASHES, keys, REPLY_BYTES, *some)
            yield [(job_id, fields_of(flat)) for job_id, flat in zip(some, hashes, strict=False) if flat]
            at += len(hashes)

    async def fields(self, keys: QueueKeys, ids: Sequence[bytes], fields: Sequence[bytes]) -> list[Fields]:
        """Return these fields of the first jobs, as many as make about `REPLY_BYTES`; none of a job that is gone."""
        count = len(fields)
        values = await self._scripts.call(_READ_FIELDS, keys, REPLY_BYTES, count, *fields, *ids)
        jobs = (values[at : at + count] for at in range(0, len(values), count))
        return [{name: value for name, value in zip(fields, job, strict=True) if value is not None} for job in jobs]

    async def _ids(self, keys: QueueKeys, state: str, window: tuple[int, int], oldest_first: bool) -> Sequence[bytes]:
        """Return the ids in a window, as BullMQ's getJobs counts it."""
        start, end = window
        key = keys.key(state)
        ids: Sequence[bytes]
        if state not in LISTS or not oldest_first:
            command = "LRANGE" if state in LISTS else "ZRANGE" if oldest_first else "ZREVRANGE"
            (ids,) = await self._scripts.read(keys.prefix, pack(command, key, start, end))
            return ids
        from_end = [0 if position == -1 else -(position + 1) for position in (end, start)]
        length, ids = await self._scripts.read(keys.prefix, pack("LLEN", key), pack("LRANGE", key, *from_end))
        # For a window beyond the list's end, Redis would return its first element.
        return [] if start >= length and end >= 0 else ids[::-1]

    async def lines(self, keys: QueueKeys, part: str, start: int, end: int) -> AsyncGenerator[list[bytes], None]:
        """Yield the elements of a list from `start` to `end` (inclusive; negative from its end), in pieces."""
        key = keys.key(part)
        (length,) = await self._scripts.read(keys.prefix, pack("LLEN", key))
        first = max(0, start + length if start < 0 else start)
        last = min(length - 1, end + length if end < 0 else end)
        while first <= last:
            upto = min(last, first + _LINES_AT_ONCE - 1)
            found = await self._scripts.call(_READ_LINES, keys, REPLY_BYTES, first, upto, list=part)
            if not found:
                return
            yield found
            first += len(found)
