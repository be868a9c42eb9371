"""Drains groups of targets: their deliveries are cancelled.

The ledger has the deliveries, so the recoverer would put back jobs that are only removed from their queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container

from toril.bullmq.ports.groups import GroupStore
from toril.core.access import Caller, Right
from toril.core.errors import JobNotFound, JobRefused, LedgerElsewhere, unwrapped
from toril.delivery.deliveries import Deliveries
from toril.delivery.rules.delivery import target_of

_AT_ONCE = 50


class GroupDrain:
    """Removes what waits in a group.

    Args:
        groups: the groups of all queues.
        deliveries: cancels those of targets.
        targets: the names of the targets that are configured now.
    """

    def __init__(self, groups: GroupStore, deliveries: Deliveries, targets: Container[str]) -> None:
        self._groups = groups
        self._deliveries = deliveries
        self._targets = targets

    async def drain(self, queue: str, group: str, caller: Caller) -> int:
        """As `GroupDrains.drain`: of a target, cancel the waiting deliveries of a group.

        Raises:
            Forbidden: the caller may not cancel deliveries of the target.
        """
        if target_of(queue) not in self._targets:
            return await self._groups.drain(queue, group)
        caller.demand(Right.DELIVERIES_MANAGE, queue)
        cancelled = left = 0
        # What cannot be cancelled stays, before the rest: a job that has no delivery, or whose attempt began meanwhile.
        while job_ids := await self._groups.waiting(queue, group, left, _AT_ONCE):
            with unwrapped():
                async with asyncio.TaskGroup() as tasks:
                    ends = [tasks.create_task(self._cancelled(job_id, caller.name)) for job_id in job_ids]
            done = sum(task.result() for task in ends)
            cancelled += done
            left += len(job_ids) - done
        return cancelled

    async def _cancelled(self, job_id: str, by: str) -> bool:
        """Cancel a delivery; return False where it is over, or not in this ledger."""
        try:
            await self._deliveries.cancel(await self._deliveries.find(job_id), by)
        except (JobNotFound, JobRefused, LedgerElsewhere):
            return False
        return True
