"""Orphaned jobs: jobs in no state, which no worker and no list finds. They are removed, or put back to waiting.

A BullMQ 5 that resumes a queue leaves such jobs behind if others have put them into `wait` beside its `paused`. They
are found by scanning all keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.queue_script import QueueScript
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.lua.waiting_lists import STANDING

_SCAN_COUNT = 1000
_PAGE = 10_000
# How many jobs one call checks, and how many list elements it passes at most: for each orphan, Redis searches all of
# the lists, which takes 1.5 ms for so many elements.
_SUSPECTS = 50
_PASSED = 100_000
_LISTS = ("wait", "paused", "active")
# Sorted sets, which need no search, come first.
_PARTS = (
    "completed", "failed", "delayed", "prioritized", "waiting-children", *_LISTS, "id", "stalled-check", "stalled",
    "repeat", "limiter", "meta", "events", "pc", "marker", "de",
)  # fmt: skip
_JOB_PARTS = ("logs", "dependencies", "processed", "failed", "unsuccessful", "lock")

# Puts those of the jobs that are orphans, and neither have ended nor wait for children, behind the waiting jobs; jobs
# with a priority go by it. The oldest job comes first.
_RESTORE = QueueScript(
    "restoreOrphans",
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
""",
    keys="prefix",
    arguments="job_ids*",
    returns="how many were put back to waiting",
    moves=True,
)


class OrphanedJobs:
    """Finds the orphaned jobs of any queue, and removes or restores them."""

    def __init__(self, scripts: Scripts, prefix: str) -> None:
        self._scripts = scripts
        self._prefix = prefix

    async def remove(self, queue: str, most: int | None) -> int:
        """Remove about `most` orphaned jobs; return how many."""
        keys = QueueKeys(self._prefix, queue)
        removed = 0
        async for suspects in self._suspects(keys):
            # BullMQ's script keeps jobs that a scheduler has made.
            removed += await self._scripts.call(
                self._scripts.remove_orphans, keys,
                len(_PARTS), *_PARTS, len(_JOB_PARTS), *_JOB_PARTS, *(job for job in suspects if b":" not in job),
            )  # fmt: skip
            if most is not None and removed >= most:
                break
        return removed

    async def restore(self, queue: str, most: int | None) -> int:
        """Put about `most` orphaned jobs back to waiting; return how many. Jobs that have ended stay as they are."""
        keys = QueueKeys(self._prefix, queue)
        restored = 0
        async for suspects in self._suspects(keys):
            restored += await self._scripts.call(_RESTORE, keys, *suspects)
            if most is not None and restored >= most:
                break
        return restored

    async def _suspects(self, keys: QueueKeys) -> AsyncIterator[Sequence[bytes]]:
        """Yield the ids of jobs whose keys exist, a few at a time, without those that were in lists a moment ago."""
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
            # Ids that BullMQ has counted are sorted by number.
            suspects = sorted(ids, key=lambda job_id: (len(job_id), job_id))
            for first in range(0, len(suspects), at_once):
                yield suspects[first : first + at_once]
            if cursor == b"0":
                return


def _job_id_of(suffix: bytes) -> bytes | None:
    """Return the id of the job that a key belongs to, from the end of the key; None if it is not a job's."""
    scheduled, _, due_ms = suffix.rpartition(b":")
    if scheduled.startswith(b"repeat:") and due_ms.isdigit():
        return suffix  # a job that a scheduler has made
    job_id, _, part = suffix.partition(b":")
    name, kind = job_id.decode(errors="replace"), part.decode(errors="replace")
    if name in _PARTS or not name or (b":" in suffix and kind not in _JOB_PARTS):
        return None
    return job_id
