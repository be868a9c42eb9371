"""Removes many jobs of a queue in short steps: what drain and clean do.

BullMQ's own scripts remove all of a list in one call, which a million jobs make seconds, and look no further than a
first page where they have a limit. Its drain trims a list by how many jobs it has removed, from the wrong end where a
scheduler's job stays. Here a script of ours decides job by job, and BullMQ's own functions remove each. A step ends
after so many jobs or so much time, whichever comes first, and the next one finds its place again whatever workers and
producers have done meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import msgspec

from toril.bull.keys import QueueKeys
from toril.bull.scripts import Script, Scripts
from toril.bull.waiting_lists import guarded

MOST = 500
"""How many jobs a step looks at, at most."""
BUDGET_MS = 3
"""How long a step takes of Redis: it ends with the job at which this is over."""

_pack = msgspec.msgpack.Encoder().encode
_LISTS = frozenset({"wait", "paused", "active"})
# What BullMQ's clean compares with the time from which on jobs are kept; the first that a job has.
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
# They return the removed ids, whether there is more to look at (0 or 1), how many were looked at, and the next place.
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

# From the end where the oldest is. What is kept stays behind, so the place is how many those are (ARGV[3]), and the id
# of the last (ARGV[4]): where that is another one by now, workers have taken some, and it begins at the end again.
# ARGV[5] is the last job to remove, or empty, and ARGV[6] how often it had been taken: once more, and all are gone.
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
# Options beside those: `to`, the highest score; `counter`: jobs whose priority was given behind this number of the
# queue's counter have come since, and are kept.
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


def _removing(name: str, body: bytes) -> Script:
    """A script of ours that removes jobs with the functions of BullMQ's clean."""
    text = files("bullmq").joinpath("commands", "cleanJobsInSet-3.lua").read_bytes()
    _, found, behind = text.partition(b"local function getTimestamp(")
    functions, end, _ = behind.partition(b"local function cleanList(")
    if not (found and end):
        raise ValueError("BullMQ's clean does not have the functions that remove a job as expected")
    return Script(name, guarded(b"local rcall = redis.call\n" + found + functions + _RULES + body))


class Sweeps:
    """Drains and cleans queues."""

    def __init__(self, scripts: Scripts, prefix: str) -> None:
        self._scripts = scripts
        self._prefix = prefix
        self._list = _removing("sweepList-2.lua", _LIST)
        self._set = _removing("sweepSet-2.lua", _SET)

    async def drain(self, queue: str, *, delayed: bool) -> int:
        """Remove what waits, and with `delayed` what is delayed, but the next jobs of schedulers; how many those were.

        What is added meanwhile stays, but for delayed jobs.
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
        """Remove jobs of a state that are no newer than this, the oldest first; their ids. A `limit` of 0 is none."""
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
        """The job that has come last, and how often it has been taken; empty where there is none."""
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
        # Workers that take jobs meanwhile let it begin at the end again, but not for ever.
        left = 2 * length + MOST
        place: list[Any] = [0, b""]
        more = length > 0
        while more and left > 0:
            options = _options(rules, limit, removed)
            ids, more, looked, *place = await self._scripts.call(
                self._list, keys, keys.keys(name, "repeat"), keys.prefix, options, *place, *newest
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
            ids, more, _, *place = await self._scripts.call(
                self._set, keys, keys.keys(name, "repeat"), keys.prefix, options, *place
            )
            removed += ids
            more = more and not (limit and len(removed) >= limit)
        return removed


def _options(rules: dict[str, Any], limit: int, removed: Sequence[bytes]) -> bytes:
    """The options of a step, packed."""
    bounds = {"most": MOST, "budget": BUDGET_MS}
    return _pack(rules | bounds | ({"limit": limit - len(removed)} if limit else {}))
