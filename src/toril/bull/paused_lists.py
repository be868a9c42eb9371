"""Looks after paused queues: what others put into them, and what stands there when they are resumed.

What toril itself puts into a paused queue stands in the right list at once: `toril.bull.waiting_lists` has the rule.
Here it is applied, twice a second, to what others have put there: a BullMQ 6 into `wait` beside a `paused` list, or a
BullMQ 5 into `paused` beside a `wait` that others have filled.

A BullMQ 5 that resumes a queue leaves a marker only where it has brought a `paused` list back. Jobs in `wait` would
stand there until a consumer looks without being told to, so a marker is left for them here.

Looked after are the queues in which toril may have made a job wait since the last time (its consumers' looks among
them), and those for as long as they are paused: one small script for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from toril.bull.scripts import Scripts
from toril.core.errors import StoreError, StoreRefused

log = structlog.get_logger(__name__)

_EVERY_S = 0.5
_GROUP = 100
# What the script returns.
_NOT_PAUSED, _MORE = 0, 2


class PausedLists:
    """Looks after queues that may be paused. They go by their prefixes, `bull:orders:`."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._paused: set[bytes] = set()

    @property
    def watched(self) -> frozenset[bytes]:
        """Return the queues that are looked after now."""
        return frozenset(self._scripts.touched | self._paused)

    async def run(self) -> None:
        """Look after them, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            queues = list(self.watched)
            for first in range(0, len(queues), _GROUP):
                group = queues[first : first + _GROUP]
                self._scripts.touched.difference_update(group)  # what is touched from here on is noted anew
                await self._look_after(group)

    async def _look_after(self, queues: Sequence[bytes]) -> None:
        """Look after some queues at once: their calls leave in one write."""
        async with asyncio.TaskGroup() as tasks:
            for queue in queues:
                tasks.create_task(self._look(queue))

    async def _look(self, queue: bytes) -> None:
        try:
            found = _MORE
            while found == _MORE:
                found = await self._scripts.run(queue, *self._scripts.looking_after(queue))
        except StoreRefused as exc:  # keys of another kind: not BullMQ's
            self._paused.discard(queue)
            log.debug("paused.not_looked_after", queue=queue.decode(errors="replace"), error=exc.message)
        except StoreError:
            self._scripts.touched.add(queue)
        else:
            if found == _NOT_PAUSED:
                self._paused.discard(queue)
            else:
                self._paused.add(queue)
