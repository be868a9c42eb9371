"""Draining a group: of a target its deliveries are cancelled, of any other queue its jobs are removed."""

from typing import Any, cast

import pytest

from toril.bullmq.ports.groups import GroupStore
from toril.core.access import Caller, Right
from toril.core.errors import Forbidden, JobNotFound, JobRefused
from toril.delivery.deliveries import Deliveries
from toril.delivery.group_drain import GroupDrain

OPERATOR = Caller("ann", frozenset({Right.QUEUES_MANAGE, Right.DELIVERIES_MANAGE}))


class _Waiting:
    """One group and the deliveries of its jobs. Those named `gone` have none, and an attempt of `late` has begun."""

    def __init__(self, *job_ids: str) -> None:
        self.jobs = list(job_ids)
        self.by: set[str] = set()

    async def waiting(self, queue: str, group: str, skip: int, most: int) -> list[str]:
        return self.jobs[skip : skip + most]

    async def drain(self, queue: str, group: str) -> int:
        count, self.jobs = len(self.jobs), []
        return count

    async def find(self, job_id: str) -> str:
        if job_id.startswith("gone"):
            raise JobNotFound
        return job_id

    async def cancel(self, job_id: str, by: str) -> None:
        if job_id.startswith("late"):
            raise JobRefused("The job is over", state="delivered")
        self.by.add(by)
        self.jobs.remove(job_id)


def drain_of(jobs: _Waiting) -> GroupDrain:
    return GroupDrain(cast("GroupStore", jobs), cast("Deliveries", cast("Any", jobs)), {"billing"})


async def test_the_deliveries_of_a_target_are_cancelled_and_what_cannot_be_is_passed_over() -> None:
    jobs = _Waiting("gone-1", *(f"a-{n}" for n in range(70)), "late-1", *(f"b-{n}" for n in range(70)), "gone-2")
    assert await drain_of(jobs).drain("deliver-billing", "g", OPERATOR) == 140
    assert jobs.jobs == ["gone-1", "late-1", "gone-2"]
    assert jobs.by == {"ann"}


async def test_who_may_not_cancel_deliveries_may_not_drain_them() -> None:
    jobs = _Waiting("a")
    with pytest.raises(Forbidden):
        await drain_of(jobs).drain("deliver-billing", "g", Caller("bob", frozenset({Right.QUEUES_MANAGE})))
    assert jobs.jobs == ["a"]


@pytest.mark.parametrize("queue", ["orders", "deliver-other", "billing"])
async def test_the_jobs_of_other_queues_are_removed(queue: str) -> None:
    jobs = _Waiting("a", "b")
    assert await drain_of(jobs).drain(queue, "g", Caller("bob", frozenset({Right.QUEUES_MANAGE}))) == 2
    assert jobs.jobs == []
