"""Rows and bodies go when their time is over, in an order that never leaves a row that points at nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.unit.delivery.fake_queues import FakeTargetQueues
from tests.unit.engine.support import until
from toril.bullmq.rules.job import JobSpec
from toril.core.blob import reference
from toril.core.errors import BlobsUnavailable, LedgerUnavailable
from toril.core.metrics import JANITOR_FAILURES, JANITOR_REMOVED
from toril.delivery.delivery_janitor import DeliveryJanitor, JanitorTimes
from toril.delivery.rules.changes import AttemptResult, Begin, Cancel, DeadLettered, Delivered, End, Replay
from toril.delivery.rules.delivery import (
    AttemptOutcome,
    Envelope,
    NewDelivery,
    Stored,
    TargetResponse,
    folder_of,
    new_job_id,
    queue_of,
)
from toril.delivery.rules.target import Retention
from toril.testing import FakeBlobs, FakeClock, FakeLedger, FakeMeter

HOUR_S = 3600.0
FOLDER = folder_of("fake")


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = FakeLedger()
        self.blobs = FakeBlobs(self.clock)
        self.retention = {"billing": Retention(delivered_s=10, dead_lettered_s=20, cancelled_s=30)}
        self._count = 0
        self.queues = FakeTargetQueues(lambda job_id: self.rows_when_taken_out.append(job_id in self.ledger.deliveries))
        self.rows_when_taken_out: list[bool] = []

    @property
    def janitor(self) -> DeliveryJanitor:
        times = JanitorTimes(60.0, HOUR_S)
        return DeliveryJanitor(self.ledger, self.queues.ports, self.blobs, lambda: self.retention, times, self.clock)

    async def stored(self, job_id: str, part: str) -> Stored:
        ref = reference(FOLDER, job_id, part, part.encode())
        await self.blobs.put(ref.name, part.encode())
        return Stored(ref.name, ref.size_bytes)

    async def finished(self, result: AttemptResult | None, target: str = "billing") -> str:
        """A delivery that is over (None: cancelled), with a body and an answer in the blob store."""
        self._count += 1
        job_id = new_job_id(self.clock() + self._count, bytes(10))
        now = self.clock()
        envelope = Envelope(content=await self.stored(job_id, "request"))
        new = NewDelivery(job_id=job_id, target=target, envelope=envelope, at_s=now, max_attempts=3, by="g")
        await self.ledger.accept([new])
        if result is None:
            await self.ledger.cancel(Cancel(job_id=job_id, by="x", at_s=now))
            return job_id
        await self.ledger.begin(Begin(job_id=job_id, token="t", by="w", at_s=now, lease_until_s=now + 30))
        response = TargetResponse(status=200, content=await self.stored(job_id, "response-1"))
        await self.ledger.end(
            End(
                job_id=job_id,
                number=1,
                by="w",
                at_s=now,
                result=result,
                outcome=AttemptOutcome.ANSWERED,
                duration_s=0.1,
                response=response,
            )
        )
        return job_id

    def dangling(self) -> list[str]:
        """Rows that refer to a body that is not there."""
        contents = [envelope.content for envelope in self.ledger.envelopes.values()]
        contents += [response.content for response in self.ledger.responses.values()]
        return [one.name for one in contents if isinstance(one, Stored) and one.name not in self.blobs.bodies]


@pytest.fixture
def world() -> World:
    return World()


async def test_each_status_is_kept_for_the_retention_of_its_target(world: World) -> None:
    delivered = await world.finished(Delivered())
    dead = await world.finished(DeadLettered("no"))
    cancelled = await world.finished(None)
    left: list[set[str]] = []
    for _ in range(4):
        await world.janitor.sweep()
        left.append(set(world.ledger.deliveries))
        world.clock.jump(10.5)
    assert left == [{delivered, dead, cancelled}, {dead, cancelled}, {cancelled}, set()]
    assert world.blobs.bodies == {}


async def test_a_job_that_is_still_queued_is_removed_before_its_row(world: World) -> None:
    # Or a worker would find a job without a row, and could not tell whether it is over.
    job_id = await world.finished(None)
    queue = queue_of("billing")
    world.queues.jobs[queue] = dict.fromkeys((job_id, "another"), JobSpec("x", None))  # type: ignore[arg-type]
    world.clock.jump(31)
    assert await world.janitor.sweep() == 1
    assert (world.queues.ids(queue), world.rows_when_taken_out) == (["another"], [True])


async def test_bodies_of_another_ledger_in_the_same_store_are_left_alone(world: World) -> None:
    ref = reference(folder_of("other"), new_job_id(world.clock(), bytes(10)), "request", b"theirs")
    await world.blobs.put(ref.name, b"theirs")
    world.clock.jump(2 * HOUR_S)
    assert await world.janitor.sweep_orphans() == 0
    assert await world.blobs.get(ref.name) == b"theirs"


async def test_deliveries_of_removed_targets_are_kept_for_the_default_retention(world: World) -> None:
    await world.finished(Delivered(), "former")
    world.clock.jump(24 * HOUR_S - 1)
    assert await world.janitor.sweep() == 0
    world.clock.jump(2)
    assert await world.janitor.sweep() == 1
    assert world.blobs.bodies == {}


async def test_one_sweep_removes_many(world: World) -> None:
    for _ in range(450):
        await world.finished(Delivered())
    world.clock.jump(11)
    assert await world.janitor.sweep() == 450
    assert (world.ledger.deliveries, world.blobs.bodies) == ({}, {})


class Crash(Exception):
    """The process ends here."""


def crashing(do: Callable[..., Awaitable[Any]], *, before: bool) -> Callable[..., Awaitable[Any]]:
    async def call(*args: Any, **more: Any) -> Any:
        if not before:
            await do(*args, **more)
        raise Crash

    return call


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
    ("part", "method"),
    [("ledger", "finished"), ("ledger", "blobs"), ("ledger", "forget"), ("ledger", "some"), ("blobs", "delete")],
)
async def test_a_crash_at_any_step_leaves_no_dangling_row_and_no_permanent_orphan(
    world: World, part: str, method: str, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await world.finished(Delivered())
    world.clock.jump(11)
    thing = getattr(world, part)
    with monkeypatch.context() as patch:
        patch.setattr(thing, method, crashing(getattr(thing, method), before=before))
        with pytest.raises(Crash):
            await world.janitor.sweep()
        assert world.dangling() == []
    await world.janitor.sweep()
    assert (world.dangling(), world.ledger.deliveries) == ([], {})
    world.clock.jump(HOUR_S)
    await world.janitor.sweep_orphans()
    assert world.blobs.bodies == {}


async def test_a_young_body_without_a_row_is_left_alone(world: World) -> None:
    await world.stored("01a210b4-8b99-79c2-bba6-1519cd6fecbd", "request")
    world.clock.jump(HOUR_S - 1)
    assert await world.janitor.sweep_orphans() == 0
    world.clock.jump(2)
    assert await world.janitor.sweep_orphans() == 1


async def test_referenced_bodies_stay_and_those_of_former_answers_are_removed(world: World) -> None:
    job_id = await world.finished(DeadLettered("no"))
    former = await world.stored(job_id, "response-0")
    kept = set(world.blobs.bodies) - {former.name}
    world.clock.jump(2 * HOUR_S)
    assert await world.janitor.sweep_orphans() == 1
    assert set(world.blobs.bodies) == kept


async def test_a_delivery_that_is_replayed_during_its_removal_keeps_its_body(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await world.finished(DeadLettered("no"))
    world.clock.jump(21)
    forget = world.ledger.forget

    async def replayed_first(job_ids: Any) -> None:
        await world.ledger.replay(Replay(job_id=job_id, by="ops", at_s=world.clock()))
        await forget(job_ids)

    monkeypatch.setattr(world.ledger, "forget", replayed_first)
    await world.janitor.sweep()
    assert set(world.ledger.deliveries) == {job_id}
    assert world.dangling() == []


async def test_a_failed_sweep_is_logged_and_the_next_one_continues(world: World) -> None:
    await world.finished(Delivered())
    world.clock.jump(11)
    world.blobs.fault = BlobsUnavailable()
    with pytest.raises(BlobsUnavailable):
        await world.janitor.sweep()
    world.blobs.fault = None
    world.ledger.go_away()
    with pytest.raises(LedgerUnavailable):
        await world.janitor.sweep()
    world.ledger.come_back()
    world.clock.jump(HOUR_S)
    await world.janitor.sweep()
    await world.janitor.sweep_orphans()
    assert (world.ledger.deliveries, world.blobs.bodies) == ({}, {})


async def test_removed_deliveries_and_failed_sweeps_are_counted(world: World) -> None:
    janitor = world.janitor
    meter = janitor.meter = FakeMeter()
    await world.finished(Delivered())
    world.clock.jump(11)
    world.ledger.go_away()
    sweeping = asyncio.create_task(janitor.run())
    await until(lambda: meter.counts.get((JANITOR_FAILURES, ())), within_s=10)
    world.ledger.come_back()
    await until(lambda: meter.counts.get((JANITOR_REMOVED, ("deliveries",))) == 1, within_s=10)
    sweeping.cancel()
