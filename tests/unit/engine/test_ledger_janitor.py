"""Rows and bodies go when their time is over, in an order that never leaves a row that points at nothing."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from toril.core.blob import reference
from toril.core.delivery import (
    AttemptOutcome,
    Begin,
    Cancel,
    DeadLettered,
    Delivered,
    End,
    Envelope,
    NewDelivery,
    RecordedResponse,
    Replay,
    Settlement,
    Stored,
    folder_of,
    new_job_id,
    queue_of,
)
from toril.core.errors import BlobsUnavailable, LedgerUnavailable
from toril.core.target import Retention
from toril.engine.ledger_janitor import Bodies, Janitor, Queues
from toril.testing import FakeBlobs, FakeClock, FakeLedger

HOUR_S = 3600.0
FOLDER = folder_of("fake")


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = FakeLedger()
        self.blobs = FakeBlobs(self.clock)
        self.retention = {"billing": Retention(delivered_s=10, dead_lettered_s=20, cancelled_s=30)}
        self._count = 0
        self.queued: dict[str, set[str]] = {}
        self.rows_when_taken_out: list[bool] = []

    async def missing(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        return [job_id for job_id in job_ids if job_id not in self.queued.get(queue, set())]

    async def cancel(self, queue: str, job_id: str) -> bool:
        self.rows_when_taken_out.append(job_id in self.ledger.deliveries)
        self.queued[queue].discard(job_id)
        return True

    @property
    def janitor(self) -> Janitor:
        bodies = Bodies(self.blobs, HOUR_S)
        return Janitor(self.ledger, Queues(self, self), bodies, lambda: self.retention, 60.0, self.clock)

    async def stored(self, job_id: str, part: str) -> Stored:
        ref = reference(FOLDER, job_id, part, part.encode())
        await self.blobs.put(ref.name, part.encode())
        return Stored(ref.name, ref.size_bytes)

    async def finished(self, settlement: Settlement | None, target: str = "billing") -> str:
        """A delivery that is over (None: cancelled), with a body and an answer in the blob store."""
        self._count += 1
        job_id = new_job_id(self.clock() + self._count, bytes(10))
        now = self.clock()
        envelope = Envelope(content=await self.stored(job_id, "request"))
        new = NewDelivery(job_id=job_id, target=target, envelope=envelope, at_s=now, max_attempts=3, by="g")
        await self.ledger.accept([new])
        if settlement is None:
            await self.ledger.cancel(Cancel(job_id=job_id, by="x", at_s=now))
            return job_id
        await self.ledger.begin(Begin(job_id=job_id, token="t", by="w", at_s=now, lease_until_s=now + 30))
        response = RecordedResponse(status=200, content=await self.stored(job_id, "response-1"))
        await self.ledger.end(
            End(
                job_id=job_id,
                number=1,
                by="w",
                at_s=now,
                settlement=settlement,
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


async def test_each_status_is_kept_for_as_long_as_its_target_says(world: World) -> None:
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


async def test_what_is_left_in_the_queue_goes_before_its_row(world: World) -> None:
    # Or a worker would find a job without a row, and could not tell whether it is over.
    job_id = await world.finished(None)
    queue = queue_of("billing")
    world.queued[queue] = {job_id, "another"}
    world.clock.jump(31)
    assert await world.janitor.sweep() == 1
    assert (world.queued[queue], world.rows_when_taken_out) == ({"another"}, [True])


async def test_bodies_of_another_ledger_in_the_same_store_are_left_alone(world: World) -> None:
    ref = reference(folder_of("other"), new_job_id(world.clock(), bytes(10)), "request", b"theirs")
    await world.blobs.put(ref.name, b"theirs")
    world.clock.jump(2 * HOUR_S)
    assert await world.janitor.sweep_orphans() == 0
    assert await world.blobs.get(ref.name) == b"theirs"


async def test_what_a_target_that_is_gone_has_left_goes_by_default(world: World) -> None:
    await world.finished(Delivered(), "former")
    world.clock.jump(24 * HOUR_S - 1)
    assert await world.janitor.sweep() == 0
    world.clock.jump(2)
    assert await world.janitor.sweep() == 1
    assert world.blobs.bodies == {}


async def test_many_go_in_one_sweep(world: World) -> None:
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
async def test_a_crash_at_any_step_leaves_no_row_that_points_at_nothing_and_no_body_for_good(
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


async def test_a_body_that_is_put_and_not_referred_to_yet_is_left_alone(world: World) -> None:
    await world.stored("01a210b4-8b99-79c2-bba6-1519cd6fecbd", "request")
    world.clock.jump(HOUR_S - 1)
    assert await world.janitor.sweep_orphans() == 0
    world.clock.jump(2)
    assert await world.janitor.sweep_orphans() == 1


async def test_bodies_that_are_referred_to_stay_and_those_of_former_answers_go(world: World) -> None:
    job_id = await world.finished(DeadLettered("no"))
    former = await world.stored(job_id, "response-0")
    kept = set(world.blobs.bodies) - {former.name}
    world.clock.jump(2 * HOUR_S)
    assert await world.janitor.sweep_orphans() == 1
    assert set(world.blobs.bodies) == kept


async def test_one_that_is_replayed_in_the_moment_of_its_removal_keeps_its_body(
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


async def test_what_is_away_is_said_and_the_next_sweep_goes_on(world: World) -> None:
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
