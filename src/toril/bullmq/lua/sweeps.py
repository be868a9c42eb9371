"""Drains and cleans queues: removes many jobs in short steps.

BullMQ's scripts remove all of a list in one call, which takes seconds for a million jobs, and with a limit they check
only a first page. Its drain trims a list by the number of jobs removed, from the wrong end if a scheduler's job stays.
Here a script of toril decides for each job, and BullMQ's functions remove it. A step ends after a number of jobs or a
time, whichever comes first, and the next step finds its place again whatever workers and producers have done meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.queue_script import QueueScript, bullmq_text
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.lua.waiting_lists import guarded

MOST = 500
"""How many jobs a step looks at, at most."""
BUDGET_MS = 2
"""How long a step takes of Redis: it ends with the job at which this is over."""

_pack = msgspec.msgpack.Encoder().encode
_LISTS = frozenset({"wait", "paused", "active"})
# The times of a job that BullMQ's clean compares with the oldest time to keep; the first one that a job has counts.
_TIMES = {
    "delayed": ("processedOn", "timestamp"),
    "prioritized": ("timestamp",),
    "waiting-children": ("timestamp",),
    "wait": ("finishedOn", "processedOn", "timestamp"),
    "paused": ("finishedOn", "processedOn", "timestamp"),
    "active": ("finishedOn", "processedOn", "timestamp"),
}

# Both scripts: KEYS[1] the list or set, KEYS[2] repeat; ARGV[1] the queue's prefix, ARGV[2] options, packed:
#   most, budget (milliseconds), limit (of removed jobs, or nil); unlocked: only jobs without a lock; schedulers: keep
#   the next job of a scheduler; before: keep what is newer (milliseconds) by the first of `times` that a job has.
# They return the removed ids, 1 if there are more jobs to check (or 0), how many were checked, and the next place.
_RULES = b"""
local prefix = ARGV[1]
local o = cmsgpack.unpack(ARGV[2])
-- Redis 6 has no os.clock; its TIME goes on while a script runs, which that of later versions does not.
local has_clock, clock = pcall(function() return os.clock end)
local function seconds()
  if has_clock then return clock() end
  local now = redis.call('TIME')
  return now[1] + now[2] / 1000000
end
local began = seconds()
local function enough(removed)
  return (o.limit and removed >= o.limit) or (seconds() - began) * 1000 >= o.budget
end
local function removable(id)
  local jobKey = prefix .. id
  if o.unlocked and rcall('EXISTS', jobKey .. ':lock') == 1 then return false end
  if o.schedulers and isJobSchedulerJob(id, jobKey, KEYS[2]) then return false end
  if not o.before then return true end
  local at = getTimestamp(jobKey, o.times)
  return not at or (tonumber(at) or 0) <= o.before
end
"""

# Starts at the end with the oldest job. Kept jobs stay there, so the place is their number (ARGV[3]) and the id of the
# last one (ARGV[4]): if another job is there now, workers have taken some, and the step starts at the end again.
# ARGV[5] is the last job to remove, or empty, and ARGV[6] how often it had been taken: once more means that all of
# the jobs are gone.
_LIST = b"""
local skip, newest = tonumber(ARGV[3]), ARGV[5]
if skip > 0 and rcall('LINDEX', KEYS[1], -skip) ~= ARGV[4] then skip = 0 end
if newest ~= '' and rcall('EXISTS', prefix .. newest) == 1
  and (rcall('HGET', prefix .. newest, 'ats') or '') ~= ARGV[6] then
  return {{}, 0, 0, 0, ''}
end
local jobs = rcall('LRANGE', KEYS[1], -(skip + o.most), -(skip + 1))
local removed, looked = {}, 0
for i = #jobs, 1, -1 do
  looked = looked + 1
  if removable(jobs[i]) then
    rcall('LSET', KEYS[1], -(skip + looked), '')
    removeJob(jobs[i], true, prefix, true)
    removed[#removed + 1] = jobs[i]
  end
  if jobs[i] == newest or enough(#removed) then break end
end
local more = (looked < #jobs or looked == o.most) and jobs[#jobs - looked + 1] ~= newest and 1 or 0
if #removed > 0 then rcall('LREM', KEYS[1], -#removed, '') end
skip = skip + looked - #removed
return {removed, more, looked, skip, skip > 0 and rcall('LINDEX', KEYS[1], -skip) or ''}
"""

# By score. The place is a score (ARGV[3]), and how many jobs of that score are kept (ARGV[4]).
# More options: `to`, the highest score; `counter`: jobs whose priority was set after this number of the queue's counter
# are new, and are kept.
_SET = b"""
local from, offset = ARGV[3], tonumber(ARGV[4])
if o.counter and tonumber(rcall('GET', prefix .. 'pc') or 0) < o.counter then return {{}, 0, 0, from, offset} end
local jobs = rcall('ZRANGEBYSCORE', KEYS[1], from, o.to, 'WITHSCORES', 'LIMIT', offset, o.most)
local removed, looked = {}, 0
for i = 1, #jobs, 2 do
  looked = looked + 1
  if jobs[i + 1] ~= from then from, offset = jobs[i + 1], 0 end
  local has_come_since = o.counter and tonumber(from) % 0x100000000 > o.counter
  if not has_come_since and removable(jobs[i]) then
    removeJob(jobs[i], true, prefix, true)
    removed[#removed + 1] = jobs[i]
  else
    offset = offset + 1
  end
  if enough(#removed) then break end
end
if #removed > 0 then rcall('ZREM', KEYS[1], unpack(removed)) end
return {removed, (looked < #jobs / 2 or looked == o.most) and 1 or 0, looked, from, offset}
"""


def _removing(name: str, body: bytes, arguments: str) -> QueueScript:
    """Return a script of toril that removes jobs with the functions of BullMQ's clean."""
    text = bullmq_text("cleanJobsInSet", 3)
    _, found, behind = text.partition(b"local function getTimestamp(")
    functions, end, _ = behind.partition(b"local function cleanList(")
    if not (found and end):
        raise ValueError("BullMQ's clean does not have the functions that remove a job as expected")
    return QueueScript(
        name,
        guarded(b"local rcall = redis.call\n" + found + functions + _RULES + body),
        keys="{state} repeat",
        arguments=f"prefix options {arguments}",
        returns="the removed ids, 1 if there is more to look at or 0, how many it looked at, the place (two values)",
        moves=True,
    )


class Sweeps:
    """Drains and cleans queues."""

    def __init__(self, scripts: Scripts, prefix: str) -> None:
        self._scripts = scripts
        self._prefix = prefix
        self._list = _removing("sweepList", _LIST, "skip last_kept newest newest_taken")
        self._set = _removing("sweepSet", _SET, "from offset")

    async def drain(self, queue: str, *, delayed: bool) -> int:
        """Remove waiting jobs, with `delayed` also delayed ones, but not the next jobs of schedulers; return how many.

        Jobs that are added meanwhile stay, except delayed ones.
        """
        keys = QueueKeys(self._prefix, queue)
        rules: dict[str, Any] = {"schedulers": True}
        removed = 0
        for name in ("wait", "paused"):
            removed += len(await self._sweep_list(keys, name, rules, 0, await self._newest(keys, name)))
        counter = await self._call(keys, "GET", keys.key("pc"))
        given = {} if counter is None else {"counter": int(counter)}
        removed += len(await self._sweep_set(keys, "prioritized", rules | given, 0))
        if delayed:
            removed += len(await self._sweep_set(keys, "delayed", rules, 0))
        return removed

    async def clean(self, queue: str, state: str, before_ms: int, limit: int) -> list[bytes]:
        """Remove jobs of a state that are not newer than this, the oldest first; return their ids. 0 means no limit."""
        keys = QueueKeys(self._prefix, queue)
        rules: dict[str, Any] = {"before": before_ms, "schedulers": True, "unlocked": state == "active"}
        if state in _LISTS:
            removed = await self._sweep_list(keys, state, rules | {"times": _TIMES[state]}, limit)
        elif state in _TIMES:
            removed = await self._sweep_set(keys, state, rules | {"times": _TIMES[state]}, limit)
        else:  # completed and failed jobs are in the order of their end
            removed = await self._sweep_set(keys, state, {"to": str(before_ms)}, limit)
        await self._call(keys, "XADD", keys.key("events"), "*", "event", "cleaned", "count", len(removed))
        return removed

    async def _call(self, keys: QueueKeys, *command: str | bytes | int) -> Any:
        return await self._scripts.links.of(keys.prefix).call(*command)

    async def _newest(self, keys: QueueKeys, name: str) -> tuple[bytes, bytes]:
        """Return the newest job, and how often it has been taken; empty if there is none."""
        newest = await self._call(keys, "LINDEX", keys.key(name), 0)
        if newest is None:
            return b"", b""
        return newest, await self._call(keys, "HGET", keys.key(newest), "ats") or b""

    async def _sweep_list(
        self,
        keys: QueueKeys,
        name: str,
        rules: dict[str, Any],
        limit: int,
        newest: tuple[bytes, bytes] = (b"", b""),
    ) -> list[bytes]:
        length = int(await self._call(keys, "LLEN", keys.key(name)))
        removed: list[bytes] = []
        # Workers that take jobs meanwhile make steps start at the end again; this limits how often.
        left = 2 * length + MOST
        place: list[Any] = [0, b""]
        more = length > 0
        while more and left > 0:
            options = _options(rules, limit, removed)
            ids, more, looked, *place = await self._scripts.call(
                self._list, keys, keys.prefix, options, *place, *newest, state=name
            )
            removed += ids
            left -= looked
            more = more and not (limit and len(removed) >= limit)
        return removed

    async def _sweep_set(self, keys: QueueKeys, name: str, rules: dict[str, Any], limit: int) -> list[bytes]:
        removed: list[bytes] = []
        place: list[Any] = [b"-inf", 0]
        more = True
        while more:
            options = _options({"to": "+inf"} | rules, limit, removed)
            ids, more, _, *place = await self._scripts.call(self._set, keys, keys.prefix, options, *place, state=name)
            removed += ids
            more = more and not (limit and len(removed) >= limit)
        return removed


def _options(rules: dict[str, Any], limit: int, removed: Sequence[bytes]) -> bytes:
    """Return the packed options of a step."""
    bounds = {"most": MOST, "budget": BUDGET_MS}
    return _pack(rules | bounds | ({"limit": limit - len(removed)} if limit else {}))
