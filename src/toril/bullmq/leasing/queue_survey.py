"""Surveys many queues of BullMQ at once, to leave out those in which there is nothing to find.

Most queues are idle most of the time. So one EXISTS over the keys of all of them comes first, which takes Redis 1 µs
for each queue. A script that looks at each (5 µs) follows where some have jobs. A look by itself takes 60 µs and more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from msgspec import Struct

from toril.bullmq.lua.groups import HELD_MS
from toril.core.errors import unwrapped
from toril.core.ports import Now
from toril.redis.links import Links
from toril.redis.resp import pack
from toril.redis.script import Script

_JOBS = (b"wait", b"prioritized", b"delayed", b"toril:groups:index")
_CHECKED = (b"active", b"stalled")
_META = b"meta"

# `pcall`: a queue whose keys hold another type of value must not hide the others.
_WITH_JOBS = Script(
    "surveyJobs",
    """
local found = {}
for i, queue in ipairs(KEYS) do
  local now = redis.call('EXISTS', queue .. 'wait', queue .. 'prioritized', queue .. 'toril:groups:index')
  local first = now == 0 and redis.pcall('ZRANGE', queue .. 'delayed', 0, 0, 'WITHSCORES') or {}
  if now > 0 or first.err then
    found[#found + 1] = {i, '0'}
  elseif first[2] then
    found[#found + 1] = {i, first[2]}
  end
end
return found
""",
    keys="queues*",
    returns="the number of each queue with jobs, and 0 or the score of its first delayed job",
)
# The stalled check makes a `meta` where there is none, as that of BullMQ's workers does: others then know the queue.
_TO_CHECK = Script(
    "surveyStalled",
    """
local found = {}
for i, queue in ipairs(KEYS) do
  if redis.call('EXISTS', queue .. 'active', queue .. 'stalled') > 0
    or redis.call('EXISTS', queue .. 'meta') == 0 then found[#found + 1] = i end
end
return found
""",
    keys="queues*",
    returns="the number of each queue that has active jobs, is under a check, or has no meta",
)


class RedisQueueSurvey:
    """The survey of the queues with a prefix. `now` is the clock of Redis."""

    def __init__(self, links: Links, prefix: str, now: Now) -> None:
        self._links = links
        self._prefix = prefix
        self._now = now

    async def with_jobs(self, queues: Sequence[str]) -> Mapping[str, float]:
        """Return which of the queues have waiting, prioritized or delayed jobs, and when the first one may start."""
        now_ms = self._now() * 1000
        found: dict[str, float] = {}
        for slot, reply in await self._each_slot(queues, self._jobs):
            for number, score in reply:
                at_ms = float(score) / 0x1000
                # A held job waits for its group, which may start it now.
                found[slot.queues[number - 1]] = at_ms / 1000 if now_ms < at_ms < HELD_MS else 0.0
        return found

    async def to_check(self, queues: Sequence[str]) -> set[str]:
        """Return which of the queues have active jobs or are under a check, or are not known to others yet."""
        return {
            slot.queues[number - 1] for slot, reply in await self._each_slot(queues, self._stalled) for number in reply
        }

    async def _jobs(self, slot: _Slot) -> Any:
        if await self._links.of(slot.keys[0]).call(*slot.exists(*_JOBS)):
            return await _WITH_JOBS.call(self._links, slot.keys)
        return ()

    async def _stalled(self, slot: _Slot) -> Any:
        calls = [pack(*slot.exists(*_CHECKED)), pack(*slot.exists(_META))]
        checked, known = await self._links.of(slot.keys[0]).pipeline(calls)
        if checked or known < len(slot.keys):
            return await _TO_CHECK.call(self._links, slot.keys)
        return ()

    async def _each_slot(
        self, queues: Sequence[str], survey: Callable[[_Slot], Coroutine[None, None, Any]]
    ) -> list[tuple[_Slot, Any]]:
        """Survey the queues: all at once, or in a cluster those of each slot; return what was found in each slot."""
        slots: dict[int, _Slot] = {}
        for queue in queues:
            key = f"{self._prefix}:{queue}:".encode()
            slot = slots.setdefault(self._links.group(key), _Slot([], []))
            slot.queues.append(queue)
            slot.keys.append(key)
        with unwrapped():
            async with asyncio.TaskGroup() as tasks:
                surveys = [(slot, tasks.create_task(survey(slot))) for slot in slots.values()]
        return [(slot, task.result()) for slot, task in surveys]


class _Slot(Struct):
    """Queues that one command may ask about, and the prefixes of their keys."""

    queues: list[str]
    keys: list[bytes]

    def exists(self, *parts: bytes) -> list[bytes]:
        """Return the command that counts which of these parts the queues have."""
        return [b"EXISTS", *(key + part for key in self.keys for part in parts)]
