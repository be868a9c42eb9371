"""The targets' queues, in memory."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from msgspec import UNSET

from toril.bullmq.rules.job import JobSpec
from toril.core.errors import GroupFull, StoreUnavailable
from toril.delivery.target_queues import TargetQueues


class FakeTargetQueues:
    """Producer, finder and canceller of jobs in one. Adding a job that is there changes nothing.

    `on_cancel` is called with the id of each job that is cancelled.
    """

    def __init__(self, on_cancel: Callable[[str], None] = lambda job_id: None) -> None:
        self.jobs: dict[str, dict[str, JobSpec]] = {}
        self.added = 0
        self.locked: set[str] = set()
        self.cancelled: list[tuple[str, str]] = []
        self.away = False
        # The label of each target's groups, and the most waiting jobs of groups that have such a limit.
        self.labels: dict[str, str] = {}
        self.most: dict[str, int] = {}
        # The queue and the group in which a job has taken room.
        self.taken: dict[str, tuple[str, str]] = {}
        self._on_cancel = on_cancel

    @property
    def ports(self) -> TargetQueues:
        return TargetQueues(self, self, self, self, self.labels.get)

    def ids(self, queue: str) -> list[str]:
        return list(self.jobs.get(queue, {}))

    async def add(self, queue: str, jobs: Sequence[JobSpec], now_ms: int, *, again: bool = False) -> list[bytes]:
        self._check()
        known = self.jobs.setdefault(queue, {})
        for job in jobs:
            assert job.opts is not None
            self.added += str(job.opts.jobId) not in known
            known.setdefault(str(job.opts.jobId), job)
            self.taken.pop(str(job.opts.jobId), None)
        return [b""] * len(jobs)

    async def take_room(self, queue: str, group: str, job_id: str) -> None:
        self._check()
        waiting = _groups(self.jobs.get(queue, {}).values())[group] + list(self.taken.values()).count((queue, group))
        if waiting >= self.most.get(group, waiting + 1):
            raise GroupFull
        self.taken[job_id] = (queue, group)

    async def free_room(self, queue: str, group: str, job_id: str) -> None:
        self._check()
        self.taken.pop(job_id, None)

    async def missing(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        self._check()
        await asyncio.sleep(0)
        return [job_id for job_id in job_ids if job_id not in self.jobs.get(queue, {})]

    async def held(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        self._check()
        return [job_id for job_id in job_ids if job_id in self.locked]

    async def cancel(self, queue: str, job_id: str) -> bool:
        self._check()
        self._on_cancel(job_id)
        self.cancelled.append((queue, job_id))
        return self.jobs.get(queue, {}).pop(job_id, None) is not None

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable


def _groups(jobs: Iterable[JobSpec]) -> Counter[str]:
    return Counter(job.opts.group.name for job in jobs if job.opts is not None and job.opts.group is not UNSET)
