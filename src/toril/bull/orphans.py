"""Orphans: jobs that are in no state, so that no worker and no list finds them. Removed, or put back to waiting.

A BullMQ 5 that resumes a queue leaves such jobs behind where others had put them into `wait` beside its `paused`.
Finding them takes reading every key name there is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from toril.bull.keys import QueueKeys
from toril.bull.scripts import Script, Scripts
from toril.bull.waiting_lists import STANDING

_SCAN_COUNT = 1000
_PAGE = 10_000
# How many are looked at in one call, and how many jobs of the lists it passes at most: an orphan takes Redis a walk
# through all of them, 1.5 ms for so many.
_SUSPECTS = 50
_PASSED = 100_000
_LISTS = ("wait", "paused", "active")
# What takes no walk comes first.
_PARTS = (
    "completed", "failed", "delayed", "prioritized", "waiting-children", *_LISTS, "id", "stalled-check", "stalled",
    "repeat", "limiter", "meta", "events", "pc", "marker", "de",
)  # fmt: skip
_JOB_PARTS = ("logs", "dependencies", "processed", "failed", "unsuccessful", "lock")

# KEYS[1] the queue's prefix, with the colon at its end; ARGV the ids of jobs that may be orphans, the oldest first.
# Puts those that are, and have neither ended nor wait for children, behind the jobs that wait; a priority keeps its
# place. Returns how many.
_RESTORE = (
    STANDING
    + b"""
local rcall = redis.call
local prefix = KEYS[1]
local function placed(job)
  for _, set in ipairs({'completed', 'failed', 'delayed', 'prioritized', 'waiting-children'}) do
    if rcall('ZSCORE', prefix .. set, job) then return true end
  end
  for _, list in ipairs({'active', 'wait', 'paused'}) do
    if rcall('LPOS', prefix .. list, job) then return true end
  end
  return false
end
local restored = 0
for _, job in ipairs(ARGV) do
  local key = prefix .. job
  if rcall('TYPE', key)['ok'] == 'hash' then
    local fields = rcall('HMGET', key, 'name', 'timestamp', 'finishedOn', 'priority')
    local name, timestamp, finished, priority = unpack(fields)
    local busy = rcall('EXISTS', key .. ':lock') == 1 or rcall('SCARD', key .. ':dependencies') > 0
    if name and timestamp and not finished and not busy and not placed(job) then
      priority = tonumber(priority) or 0
      if priority > 0 then
        local count = rcall('INCR', prefix .. 'pc')
        rcall('ZADD', prefix .. 'prioritized', priority * 0x100000000 + count % 0x100000000, job)
      else
        rcall('LPUSH', standing(prefix .. 'wait'), job)
      end
      rcall('HSET', key, 'delay', 0)
      rcall('XADD', prefix .. 'events', '*', 'event', 'waiting', 'jobId', job)
      restored = restored + 1
    end
  end
end
if restored > 0 and rcall('HEXISTS', prefix .. 'meta', 'paused') == 0 then
  rcall('ZADD', prefix .. 'marker', 0, '0')
end
return restored
"""
)


class Orphans:
    """Finds and treats the orphans of any queue."""

    def __init__(self, scripts: Scripts, prefix: str) -> None:
        self._scripts = scripts
        self._prefix = prefix
        self._restore = Script("restoreOrphans-1.lua", _RESTORE)

    async def remove(self, queue: str, most: int | None) -> int:
        """Remove about `most` of them, whatever they are; how many those were."""
        keys = QueueKeys(self._prefix, queue)
        removed = 0
        async for suspects in self._suspects(keys):
            # BullMQ's own leaves those that a scheduler has made.
            removed += await self._scripts.call(
                self._scripts.remove_orphans, keys, (keys.prefix,),
                len(_PARTS), *_PARTS, len(_JOB_PARTS), *_JOB_PARTS, *(job for job in suspects if b":" not in job),
            )  # fmt: skip
            if most is not None and removed >= most:
                break
        return removed

    async def restore(self, queue: str, most: int | None) -> int:
        """Let about `most` of them wait again; how many those were. One that has ended stays as it is."""
        keys = QueueKeys(self._prefix, queue)
        restored = 0
        async for suspects in self._suspects(keys):
            restored += await self._scripts.call(self._restore, keys, (keys.prefix,), *suspects)
            if most is not None and restored >= most:
                break
        return restored

    async def _suspects(self, keys: QueueKeys) -> AsyncIterator[Sequence[bytes]]:
        """Jobs by their keys, a few at a time, without those seen in lists a moment ago."""
        link = self._scripts.links.of(keys.prefix)
        listed: set[bytes] = set()
        for part in _LISTS:
            for first in range(0, await link.call("LLEN", keys.key(part)), _PAGE):
                listed.update(await link.call("LRANGE", keys.key(part), first, first + _PAGE - 1))
        at_once = max(1, min(_SUSPECTS, _PASSED // max(1, len(listed))))
        pattern = b"".join(b"\\%c" % sign if sign in b"*?[]^\\" else b"%c" % sign for sign in keys.prefix) + b"*"
        cursor = b"0"
        while True:
            cursor, found = await link.call("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT)
            ids = {job_id for name in found if (job_id := _job_id_of(name[len(keys.prefix) :])) is not None} - listed
            # The numbers that BullMQ gives come in their order.
            suspects = sorted(ids, key=lambda job_id: (len(job_id), job_id))
            for first in range(0, len(suspects), at_once):
                yield suspects[first : first + at_once]
            if cursor == b"0":
                return


def _job_id_of(suffix: bytes) -> bytes | None:
    """The job that a key belongs to, by the end of its name; None where it is no job's."""
    scheduled, _, due_ms = suffix.rpartition(b":")
    if scheduled.startswith(b"repeat:") and due_ms.isdigit():
        return suffix  # what a scheduler has made
    job_id, _, part = suffix.partition(b":")
    name, kind = job_id.decode(errors="replace"), part.decode(errors="replace")
    if name in _PARTS or not name or (b":" in suffix and kind not in _JOB_PARTS):
        return None
    return job_id
