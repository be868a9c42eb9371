"""Settlements are confirmed behind the next job, and their worker is told of those that are not."""

import asyncio
from typing import Any

from structlog.testing import capture_logs

from toril.bullmq.acknowledged.settlements import AcknowledgedSettlements, UnconfirmedLog
from toril.core.errors import StoreUnavailable
from toril.core.lease import NOTHING, Lease, Next
from toril.core.stored_job import StoredOptions
from toril.redis.confirmations import PlannedWrite, Unconfirmed


class FakeConfirmations:
    """Confirms when the test lets it, unless there is a fault."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.is_away = False
        self.fault: Unconfirmed | None = None

    async def before(self, key: bytes) -> PlannedWrite:
        if self.is_away:
            raise StoreUnavailable
        return PlannedWrite(key, "run")

    async def confirm(self, written: PlannedWrite) -> None:
        await self.goes_on.wait()
        if self.fault is not None:
            raise self.fault
        if written.server is None:
            raise Unconfirmed("the connection to Redis was made anew meanwhile")


class Bench:
    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.confirmations = FakeConfirmations()
        self.told: list[tuple[bytes, bool]] = []
        confirmations: Any = self.confirmations
        self.settlements = AcknowledgedSettlements(confirmations, "bull", tasks, UnconfirmedLog(), self._tell)

    async def settle(self, job_id: bytes) -> Next | None:
        lease = Lease(
            queue="orders", job_id=job_id, token=b"t", fields={}, options=StoredOptions(b"{}"), attempts_made=0
        )
        return await self.settlements.after(lease, self._settled)

    async def _settled(self) -> Next | None:
        return NOTHING

    async def _tell(self, lease: Lease, fault: Unconfirmed | None) -> None:
        self.told.append((lease.job_id, fault is None))


async def test_the_next_job_does_not_wait_for_the_confirmation() -> None:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks)
        assert await bench.settle(b"1") is NOTHING
        assert bench.told == []
        bench.confirmations.goes_on.set()
        await bench.settlements.settled()
        assert bench.told == [(b"1", True)]


async def test_the_worker_is_told_and_the_log_counts() -> None:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks)
        bench.confirmations.fault = Unconfirmed("0 of 1 replicas have it in time")
        bench.confirmations.goes_on.set()
        with capture_logs() as logs:
            for job_id in (b"1", b"2"):
                await bench.settle(job_id)
            await bench.settlements.settled()
        assert bench.told == [(b"1", False), (b"2", False)]
    # One line in ten seconds.
    assert [(line["event"], line["settlements"]) for line in logs] == [("settle.unconfirmed", 1)]


async def test_what_was_settled_while_redis_came_back_is_not_confirmed() -> None:
    async with asyncio.TaskGroup() as tasks:
        bench = Bench(tasks)
        bench.confirmations.is_away = True
        bench.confirmations.goes_on.set()
        assert await bench.settle(b"1") is NOTHING
        await bench.settlements.settled()
        assert bench.told == [(b"1", False)]
