"""Moves jobs of paused queues into the right list, and adds a marker once a queue is resumed.

toril's scripts put jobs of a paused queue into the right list at once, by the rule in
`toril.bullmq.lua.waiting_lists`. Here the rule is applied, twice a second, to jobs that other programs have added: a
BullMQ 6 to `wait` beside a `paused` list, or a BullMQ 5 to `paused` beside a `wait` that others have filled.

A BullMQ 5 that resumes a queue adds a marker only if it has renamed a `paused` list. Jobs in `wait` would stay there
until a consumer polls, so a marker is added for them here.

The script runs for each queue in which toril may have made a job wait since the last time (including by its consumers'
polls), and for such a queue as long as it is paused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from toril.bullmq.lua.scripts import Scripts
from toril.core.errors import StoreError, StoreRefused

log = structlog.get_logger(__name__)

_EVERY_S = 0.5
_GROUP = 100
# The replies of the script.
_NOT_PAUSED, _MORE = 0, 2


class PausedLists:
    """Applies the rule to queues that may be paused. Queues are named by their prefixes, `bull:orders:`."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._paused: set[bytes] = set()

    @property
    def watched(self) -> frozenset[bytes]:
        """Return the queues that the script runs for now."""
        return frozenset(self._scripts.touched | self._paused)

    async def run(self) -> None:
        """Run the script for these queues, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            queues = list(self.watched)
            for first in range(0, len(queues), _GROUP):
                group = queues[first : first + _GROUP]
                self._scripts.touched.difference_update(
                    group
                )  # queues that are touched from here on are collected anew
                await self._look_after(group)

    async def _look_after(self, queues: Sequence[bytes]) -> None:
        """Run the script for several queues at once, sent in one write."""
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
