"""Keeps the waiting jobs of a paused queue in one list where BullMQ 5 is about.

BullMQ 5 moves `wait` to `paused` when it pauses, adds to `paused` meanwhile, and renames `paused` over `wait` when it
resumes: what newer scripts, ours among them, have added to `wait` meanwhile would be gone. A `paused` list that is
there says that BullMQ 5 is about. Then what is in `wait` moves behind what is in `paused`, where every version finds
it.

This cannot be one step with the add, which is BullMQ's script. It follows within a second, for queues that are added to
or paused here, and for as long as they are paused. Called by `toril.bull.producer` and `toril.bull.control`.
"""

from __future__ import annotations

import asyncio

import structlog

from toril.bull.keys import QueueKeys
from toril.bull.scripts import Script, Scripts
from toril.core.errors import StoreError

log = structlog.get_logger(__name__)

_EVERY_S = 0.5
_GROUP = 25
_BATCH = 5000

# KEYS[1] meta, KEYS[2] wait, KEYS[3] paused; ARGV[1] how many jobs to move at most.
# Returns 0 when the queue is not paused, 1 when it is, 2 when there are more jobs to move.
_REUNITE = b"""
local rcall = redis.call
if rcall('HEXISTS', KEYS[1], 'paused') == 0 then return 0 end
if rcall('EXISTS', KEYS[3]) == 0 then return 1 end
for _ = 1, ARGV[1] do
  if not rcall('RPOPLPUSH', KEYS[2], KEYS[3]) then return 1 end
end
return 2
"""


class PausedLists:
    """Looks after queues that may be paused."""

    def __init__(self, scripts: Scripts, prefix: str) -> None:
        self._scripts = scripts
        self._prefix = prefix
        self._noted: set[str] = set()
        self._reunite = Script("reunitePaused-3.lua", _REUNITE)

    @property
    def watched(self) -> frozenset[str]:
        """The queues that are looked after now."""
        return frozenset(self._noted)

    def note(self, queue: str) -> None:
        """Jobs were added to this queue, or it was paused."""
        self._noted.add(queue)

    async def run(self) -> None:
        """Look after them, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            queues = list(self._noted)
            for first in range(0, len(queues), _GROUP):
                async with asyncio.TaskGroup() as tasks:
                    for queue in queues[first : first + _GROUP]:
                        tasks.create_task(self._look_after(queue))

    async def _look_after(self, queue: str) -> None:
        self._noted.discard(queue)  # what is added from here on is noted anew
        try:
            paused = await self.reunite(queue)
        except StoreError as exc:
            log.debug("paused.not_looked_after", queue=queue, error=exc.message)
            paused = True
        if paused:
            self._noted.add(queue)

    async def reunite(self, queue: str) -> bool:
        """Move what is in `wait` to `paused` if the queue is paused and has such a list; whether it is paused."""
        keys = QueueKeys(self._prefix, queue)
        reply = 2
        while reply == 2:
            reply = await self._scripts.call(self._reunite, keys, keys.keys("meta", "wait", "paused"), _BATCH)
        return bool(reply)
