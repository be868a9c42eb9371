"""The BullMQ queues of the targets, as the delivery door uses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Raw, Struct

from toril.bullmq.ports.jobs import Cancels, JobFinder, JobProducer
from toril.bullmq.rules.groups import GroupOption
from toril.bullmq.rules.job import JobOptions, JobSpec
from toril.delivery.rules.delivery import Delivery, queue_of
from toril.delivery.rules.delivery_job import JOB_NAME, job_of


class GroupRoom(Protocol):
    """Knows whether groups may have more waiting jobs."""

    async def check_room(self, queue: str, jobs: Sequence[JobSpec]) -> None:
        """Refuse jobs for which there is no room in their groups. Raises `GroupFull`."""
        ...


class TargetQueues(Struct, frozen=True):
    """Adds jobs to the targets' queues, tells which of them are there, and cancels them, also while they run.

    `room` knows whether groups may have more waiting jobs. `group_by` returns the label that says in which group a
    target's delivery is.
    """

    producer: JobProducer
    finder: JobFinder
    cancelling: Cancels
    room: GroupRoom
    group_by: Callable[[str], str | None] = lambda _: None

    async def add(
        self, target: str, deliveries: Sequence[Delivery], now_s: float, ledger_id: str, *, again: bool = False
    ) -> None:
        """Add the jobs of deliveries that are in this ledger. They may have been added before (`again`)."""
        label = self.group_by(target)
        jobs = [job_of(one, now_s, ledger_id, label) for one in deliveries]
        await self.producer.add(queue_of(target), jobs, int(now_s * 1000), again=again)

    async def check_room(self, target: str, group: str, count: int) -> None:
        """Refuse so many more deliveries of a group if it may not have as many waiting ones. Raises `GroupFull`."""
        job = JobSpec(JOB_NAME, Raw(b"null"), JobOptions(group=GroupOption(group)))
        await self.room.check_room(queue_of(target), [job] * count)
