"""Deliveries that are missing in their queue are put back; attempts without a worker are ended."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.unit.delivery.fake_queues import FakeTargetQueues
from toril.bullmq.rules.job import JobSpec
from toril.core.errors import LedgerUnavailable, StoreUnavailable
from toril.delivery.ledger_recoverer import LedgerRecoverer
from toril.delivery.rules.changes import Begin, Begun, Delivered, End
from toril.delivery.rules.delivery import AttemptOutcome, Delivery, Envelope, NewDelivery, new_job_id, queue_of
from toril.delivery.rules.lifecycle import Status
from toril.testing import FakeClock, FakeLedger

EVERY_S = 60.0


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = FakeLedger()
        self.queues = FakeTargetQueues()
        self._count = 0

    def recoverer(self, by: str = "recoverer") -> LedgerRecoverer:
        return LedgerRecoverer(self.ledger, self.queues.ports, lambda: ["billing", "email"], EVERY_S, by, self.clock)

    async def accepted(self, target: str = "billing", **more: float | None) -> Delivery:
        self._count += 1
        job_id = new_job_id(self.clock() + self._count, bytes(10))
        new = NewDelivery(
            job_id=job_id, target=target, envelope=Envelope(), at_s=self.clock(), max_attempts=3, by="g", **more
        )
        await self.ledger.accept([new])
        return new.first()[0]

    async def begun(self, one: Delivery, lease_s: float = 30.0) -> Delivery:
        now = self.clock()
        begun = await self.ledger.begin(
            Begin(job_id=one.job_id, token="t", by="w", at_s=now, lease_until_s=now + lease_s)
        )
        assert isinstance(begun, Begun)
        return begun.delivery

    def queued(self, target: str = "billing") -> set[str]:
        return set(self.queues.jobs.get(queue_of(target), {}))


@pytest.fixture
def world() -> World:
    return World()


async def test_only_missing_jobs_are_put_back(world: World) -> None:
    there, gone = await world.accepted(), await world.accepted()
    other, running = await world.accepted("email"), await world.begun(await world.accepted())
    await world.queues.add(queue_of("billing"), [], 0)
    world.queues.jobs[queue_of("billing")] = {there.job_id: JobSpec("x", None)}  # type: ignore[arg-type]
    done = await world.recoverer().recover()
    assert done.requeued == Counter({"billing": 1, "email": 1})
    assert world.queued() == {there.job_id, gone.job_id}
    assert world.queued("email") == {other.job_id}
    assert running.job_id not in world.queued()


async def test_everything_is_put_back_after_a_flush_over_many_pages(world: World) -> None:
    some = {(await world.accepted()).job_id for _ in range(1203)}
    done = await world.recoverer().recover()
    assert done.requeued == Counter({"billing": 1203})
    assert world.queued() == some
    assert not (await world.recoverer().recover()).anything


async def test_a_job_that_is_put_back_keeps_its_remaining_delay(world: World) -> None:
    one = await world.accepted(not_before_s=world.clock() + 90)
    later = await world.accepted(not_before_s=world.clock() + 2 * EVERY_S)
    await world.recoverer().recover()
    assert world.queued() == {one.job_id}  # the other one is not due before the next comparison
    opts = world.queues.jobs[queue_of("billing")][one.job_id].opts
    assert opts is not None
    assert opts.delay == 90_000
    world.clock.jump(EVERY_S)
    await world.recoverer().recover()
    assert later.job_id in world.queued()


async def test_two_recoverers_at_once_put_each_job_back_once(world: World) -> None:
    for _ in range(30):
        await world.accepted()
    for _ in range(10):
        await world.begun(await world.accepted(), lease_s=-1)
    async with asyncio.TaskGroup() as tasks:
        both = [tasks.create_task(world.recoverer(by).recover()) for by in ("a", "b")]
    assert len(world.queued()) == world.queues.added == 40
    assert sum(task.result().lost.total() for task in both) == 10
    assert all(len(steps) in {1, 3} for steps in world.ledger.transitions.values())


async def test_a_delivery_that_finished_between_two_reads_is_not_put_back(world: World) -> None:
    one = await world.accepted()
    missing = world.queues.missing

    async def ended_meanwhile(queue: str, job_ids: Sequence[str]) -> list[str]:
        found = await missing(queue, job_ids)
        if found:
            begun = await world.begun(one)
            await world.ledger.end(
                End(
                    job_id=one.job_id,
                    number=begun.attempts_begun,
                    by="w",
                    at_s=world.clock(),
                    result=Delivered(),
                    outcome=AttemptOutcome.ANSWERED,
                    duration_s=0.1,
                )
            )
        return found

    world.queues.missing = ended_meanwhile  # type: ignore[method-assign]
    assert not (await world.recoverer().recover()).anything
    assert world.queued() == set()


async def test_an_attempt_of_a_lost_worker_is_ended_and_its_job_put_back(world: World) -> None:
    one = await world.begun(await world.accepted())
    assert not (await world.recoverer().recover()).anything
    world.clock.jump(31)
    done = await world.recoverer().recover()
    assert (done.lost, done.requeued) == (Counter({"billing": 1}), Counter({"billing": 1}))
    assert world.ledger.deliveries[one.job_id].status is Status.QUEUED
    assert world.queued() == {one.job_id}


async def test_an_attempt_whose_worker_holds_its_job_is_not_lost(world: World) -> None:
    # Its worker could not write for a while, as the ledger was away, and knows what came of it.
    some = [await world.begun(await world.accepted()) for _ in range(600)]
    world.queues.locked = {one.job_id for one in some[:550]}
    world.clock.jump(31)
    recovered = await world.recoverer().recover()
    assert recovered.lost == Counter({"billing": 50})
    assert world.queued() == {one.job_id for one in some[550:]}
    world.queues.locked.clear()
    assert (await world.recoverer().recover()).lost == Counter({"billing": 550})


async def test_while_redis_is_away_no_attempt_is_lost_but_deadlines_are_kept(world: World) -> None:
    running = await world.begun(await world.accepted())
    over = await world.accepted(deadline_s=world.clock() + 5)
    world.clock.jump(31)
    world.queues.away = True
    with pytest.raises(StoreUnavailable):
        await world.recoverer().recover()
    assert world.ledger.deliveries[running.job_id].status is Status.DISPATCHING
    assert world.ledger.deliveries[over.job_id].status is Status.DEAD_LETTERED


async def test_a_delivery_that_waits_past_its_deadline_becomes_a_dead_letter(world: World) -> None:
    one = await world.accepted(deadline_s=world.clock() + 5, not_before_s=world.clock() + 100)
    world.clock.jump(5)
    done = await world.recoverer().recover()
    assert done.expired == Counter({"billing": 1})
    assert world.ledger.deliveries[one.job_id].reason == "deadline"


async def test_recovery_runs_at_the_start_on_request_and_periodically(world: World) -> None:
    with world.clock.driving():
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(world.recoverer().run())
            recoverer = world.recoverer()
            running.cancel()
            first = await world.accepted()
            running = tasks.create_task(recoverer.run())
            await asyncio.sleep(0.5)
            assert world.queued() == {first.job_id}
            second = await world.accepted()
            await asyncio.sleep(5)
            assert second.job_id not in world.queued()
            recoverer.soon()
            await asyncio.sleep(2)
            assert second.job_id in world.queued()
            world.queues.jobs.clear()
            await asyncio.sleep(EVERY_S + 2)
            assert world.queued() == {first.job_id, second.job_id}
            running.cancel()


async def test_recovery_is_retried_until_ledger_and_redis_are_there(world: World) -> None:
    one = await world.accepted()
    world.ledger.go_away()
    with world.clock.driving():
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(world.recoverer().run())
            await asyncio.sleep(10)
            world.ledger.come_back()
            world.queues.away = True
            await asyncio.sleep(10)
            assert world.queued() == set()
            world.queues.away = False
            await asyncio.sleep(2)
            assert world.queued() == {one.job_id}
            running.cancel()


async def test_after_an_outage_workers_record_known_answers_first(world: World) -> None:
    # Redis was flushed as well, so the job has no lock.
    running = await world.begun(await world.accepted(), lease_s=3)
    with world.clock.driving():
        async with asyncio.TaskGroup() as tasks:
            recovering = tasks.create_task(world.recoverer().run())
            await asyncio.sleep(1)
            world.ledger.go_away()
            await asyncio.sleep(10)
            world.ledger.come_back()
            await asyncio.sleep(4)
            assert world.ledger.deliveries[running.job_id].status is Status.DISPATCHING
            await asyncio.sleep(3)
            assert world.queued() == {running.job_id}
            recovering.cancel()


async def test_a_single_recovery_raises_when_a_store_is_away(world: World) -> None:
    world.ledger.go_away()
    with pytest.raises(LedgerUnavailable):
        await world.recoverer().recover()
