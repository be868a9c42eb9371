"""The BullMQ queues of the targets, as the delivery door uses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from msgspec import Struct

from toril.bullmq.ports.jobs import Cancels, JobFinder, JobProducer
from toril.core.errors import StoreError
from toril.delivery.rules.delivery import Delivery, queue_of
from toril.delivery.rules.delivery_job import job_of


class GroupRoom(Protocol):
    """Knows whether groups may have more waiting jobs, and keeps room for some."""

    async def take_room(self, queue: str, group: str, job_id: str) -> None:
        """Take room for a job until it is added, or for ten seconds. Raises `GroupFull` where there is none."""
        ...

    async def free_room(self, queue: str, group: str, job_id: str) -> None:
        """Free the room of a job that will not be added. Idempotent."""
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

    async def take_room(self, target: str, group: str | None, job_id: str) -> None:
        """Take room in a group for a delivery until it is in its queue, or for ten seconds.

        Where the queues are away, nothing is refused: what the ledger accepts waits there.

        Raises:
            GroupFull: the group has as many waiting ones as it may have.
        """
        if group is not None:
            with suppress(StoreError):
                await self.room.take_room(queue_of(target), group, job_id)

    async def free_room(self, target: str, group: str | None, job_id: str) -> None:
        """Free the room of a delivery that was not accepted. Where the queues are away, it is free by itself."""
        if group is not None:
            with suppress(StoreError):
                await self.room.free_room(queue_of(target), group, job_id)
