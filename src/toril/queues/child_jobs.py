"""The children of a job, limited to the queues that the caller may read or change."""

from __future__ import annotations

from collections.abc import Iterable

from toril.bullmq.ports.jobs import JobControl
from toril.bullmq.rules.actions import Dependencies
from toril.core.access import Caller, Right
from toril.core.errors import JobNotFound
from toril.web.request import Request


class ChildJobs:
    """Reads the children of jobs that a caller may see. `prefix` is the prefix of BullMQ's keys."""

    def __init__(self, control: JobControl, prefix: str) -> None:
        self._control = control
        self._start = f"{prefix}:"

    async def dependencies(self, caller: Caller, queue: str, job_id: str) -> Dependencies:
        """Return what the job waits for, without the jobs of queues that the caller may not read.

        Raises:
            JobNotFound: there is no such job.
        """
        found = await self._control.dependencies(queue, job_id)
        if caller.all_queues:
            return found

        def seen(key: str) -> bool:
            return caller.may(Right.JOBS_READ, self._place(key)[0])

        return Dependencies(
            {key: value for key, value in found.processed.items() if seen(key)},
            [key for key in found.unprocessed if seen(key)],
            {key: reason for key, reason in found.ignored.items() if seen(key)},
            [key for key in found.failed if seen(key)],
        )

    async def demand(self, request: Request, right: Right, queue: str, job_id: str) -> None:
        """Check that the caller has this right on the queues of all descendants of a job.

        Raises:
            Forbidden: one of them is in a queue on which the caller has not that right.
            JobNotFound: there is no such job.
        """
        if request.caller.all_queues:
            return
        below = _keys(await self._control.dependencies(queue, job_id))
        looked_at: set[str] = set()
        while below:
            key = below.pop()
            if key in looked_at:
                continue
            looked_at.add(key)
            child_queue, child_id = self._place(key)
            request.demand(right, child_queue)
            try:
                below += _keys(await self._control.dependencies(child_queue, child_id))
            except JobNotFound:  # done and removed
                continue

    def queue_of(self, key: str) -> str:
        """Return the queue of a job by its key."""
        return self._place(key)[0]

    def _place(self, key: str) -> tuple[str, str]:
        """Return the queue and the id of a job by its key; with a foreign prefix, a queue that no glob matches."""
        if not key.startswith(self._start):
            return "", key
        queue, _, job_id = key.removeprefix(self._start).partition(":")
        return queue, job_id


def _keys(waits: Dependencies) -> list[str]:
    named: tuple[Iterable[str], ...] = (waits.processed, waits.unprocessed, waits.ignored, waits.failed)
    return [key for keys in named for key in keys]
