"""Reads what may be large: many jobs, log lines. Each reply of Redis is about a megabyte at most, and one job or line.

It has a connection of its own, so that what all others wait for (leases, their renewal, adds) never stands behind such
a reply; and since each is short, Redis serves the others between two of them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from toril.bull.keys import LISTS, STORED_AS, QueueKeys
from toril.bull.scripts import Script, Scripts
from toril.bull.wire import fields_of, pack
from toril.core.stored_job import Fields

REPLY_BYTES = 2**20
"""A reply ends with the job or line that makes it as long as this."""

_IDS_AT_ONCE = 200
_LINES_AT_ONCE = 1000
# As many times as BullMQ's own getJobs goes on looking where jobs vanish under it.
_BACKFILL = 5

# KEYS[1] the queue's prefix; ARGV[1] how many bytes are enough, and then ids of jobs.
# Returns the hashes of the first of these jobs; an empty one where there is no such job.
_READ_HASHES = b"""
local found, bytes = {}, 0
for i = 2, #ARGV do
  local flat = redis.call('HGETALL', KEYS[1] .. ARGV[i])
  for j = 1, #flat do bytes = bytes + #flat[j] end
  found[#found + 1] = flat
  if bytes >= tonumber(ARGV[1]) then break end
end
return found
"""

# KEYS[1] a list; ARGV[1] how many bytes are enough, ARGV[2] the first and ARGV[3] the last element, counted from 0.
# Returns the first of these elements, as many as that is.
_READ_LINES = b"""
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
"""

Jobs = list[tuple[bytes, Fields]]


class LargeReads:
    """Reads jobs and lines piece by piece. `scripts` has the connections to read over."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._hashes = Script("readHashes-1.lua", _READ_HASHES)
        self._lines = Script("readLines-1.lua", _READ_LINES)

    async def jobs(
        self, keys: QueueKeys, states: Sequence[str], window: tuple[int, int], *, oldest_first: bool
    ) -> AsyncGenerator[Jobs, None]:
        """The jobs of some states, one state after another, in pieces of about `REPLY_BYTES`."""
        for state in states:
            async for piece in self._of_state(keys, STORED_AS.get(state, state), window, oldest_first):
                yield piece

    async def _of_state(
        self, keys: QueueKeys, state: str, window: tuple[int, int], oldest_first: bool
    ) -> AsyncGenerator[Jobs, None]:
        start, end = window
        if start < 0 or end < 0:  # as it stands: ids whose job is gone leave gaps
            async for piece in self._of_ids(keys, await self._ids(keys, state, window, oldest_first)):
                yield piece
            return
        needed = size = end - start + 1
        for _ in range(_BACKFILL):
            ids = await self._ids(keys, state, (start, start + size - 1), oldest_first)
            async for piece in self._of_ids(keys, ids):
                yield piece[:needed]
                needed -= len(piece)
                if needed <= 0:
                    return
            if len(ids) < size:
                return
            start += len(ids)

    async def _of_ids(self, keys: QueueKeys, ids: Sequence[bytes]) -> AsyncGenerator[Jobs, None]:
        at = 0
        while at < len(ids):
            some = ids[at : at + _IDS_AT_ONCE]
            hashes = await self._scripts.call(self._hashes, keys, (keys.prefix,), REPLY_BYTES, *some)
            yield [(job_id, fields_of(flat)) for job_id, flat in zip(some, hashes, strict=False) if flat]
            at += len(hashes)

    async def _ids(self, keys: QueueKeys, state: str, window: tuple[int, int], oldest_first: bool) -> Sequence[bytes]:
        """The ids of a window, as BullMQ's getJobs has it."""
        start, end = window
        key = keys.key(state)
        ids: Sequence[bytes]
        if state not in LISTS or not oldest_first:
            command = "LRANGE" if state in LISTS else "ZRANGE" if oldest_first else "ZREVRANGE"
            (ids,) = await self._scripts.read(keys.prefix, pack(command, key, start, end))
            return ids
        from_end = [0 if position == -1 else -(position + 1) for position in (end, start)]
        length, ids = await self._scripts.read(keys.prefix, pack("LLEN", key), pack("LRANGE", key, *from_end))
        # A window wholly beyond the list's end would be its first element.
        return [] if start >= length and end >= 0 else ids[::-1]

    async def lines(self, keys: QueueKeys, part: str, start: int, end: int) -> AsyncGenerator[list[bytes], None]:
        """The elements of a list from the first to the last (inclusive, negative from its end), in pieces."""
        key = keys.key(part)
        (length,) = await self._scripts.read(keys.prefix, pack("LLEN", key))
        first = max(0, start + length if start < 0 else start)
        last = min(length - 1, end + length if end < 0 else end)
        while first <= last:
            upto = min(last, first + _LINES_AT_ONCE - 1)
            found = await self._scripts.call(self._lines, keys, (key,), REPLY_BYTES, first, upto)
            if not found:
                return
            yield found
            first += len(found)
