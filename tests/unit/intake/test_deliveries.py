"""Deliveries taken in: spilled, committed, queued, in that order; a crash or an outage in between loses none."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest

from toril.core.delivery import Cancel, Expire, Stored, Written, queue_of
from toril.core.enqueue import read_envelope
from toril.core.errors import (
    BlobsUnavailable,
    IdempotencyMismatch,
    JobNotFound,
    JobRefused,
    LedgerElsewhere,
    LedgerUnavailable,
    StoreRefused,
    StoreUnavailable,
    TorilError,
    UnknownTarget,
)
from toril.core.job import JobSpec
from toril.core.lifecycle import Status
from toril.core.target import TargetAuth, TargetSpec
from toril.intake.deliveries import Bodies, Deliveries, Enqueued, Here, Queue
from toril.intake.spill import Spill
from toril.testing import FakeBlobs, FakeClock, FakeLedger

LARGE = json.dumps({"target": "billing", "body": "x" * 200})


class FakeQueue:
    """The targets' queues, as far as the intake looks at them."""

    def __init__(self) -> None:
        self.jobs: dict[str, list[JobSpec]] = {}
        self.cancelled: list[tuple[str, str]] = []
        self.away = False

    async def add(self, queue: str, jobs: Sequence[JobSpec], timestamp_ms: int) -> list[bytes]:
        self._there()
        self.jobs.setdefault(queue, []).extend(jobs)
        return [b""] * len(jobs)

    async def cancel(self, queue: str, job_id: str) -> bool:
        self._there()
        self.cancelled.append((queue, job_id))
        return True

    def _there(self) -> None:
        if self.away:
            raise StoreUnavailable


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = FakeLedger()
        self.queue = FakeQueue()
        self.blobs = FakeBlobs(self.clock)
        self.unqueued = 0
        targets = {
            "billing": TargetSpec(name="billing", url="http://b"),
            "keyed": TargetSpec(name="keyed", url="http://k", auth=TargetAuth(scheme="header", header="X-Key")),
        }
        numbers = itertools.count(1)
        self.others: list[str] = []
        here = Here("gateway", self.clock, lambda count: next(numbers).to_bytes(count, "big"), lambda: self.others)
        self.deliveries = Deliveries(
            self.ledger,
            Queue(self.queue, self.queue),
            Bodies(Spill(self.blobs, 100), self.blobs),
            targets.get,
            here,
            self._unqueued,
        )

    def _unqueued(self) -> None:
        self.unqueued += 1

    def ids(self, target: str = "billing") -> list[Any]:
        return [job.opts.jobId for job in self.queue.jobs.get(queue_of(target), []) if job.opts is not None]

    async def enqueue(self, text: str, key: str | None = None) -> Enqueued:
        return await self.deliveries.enqueue(submission(text, key))


def submission(text: str, key: str | None = None) -> Any:
    return read_envelope(text.encode(), key=key, max_body_bytes=10_000)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_delivery_is_in_the_ledger_and_in_its_queue_under_one_id(world: World) -> None:
    done = await world.enqueue('{"target":"billing","delay_ms":1500,"priority":7}')
    assert not done.replayed
    assert list(world.ledger.deliveries) == world.ids() == [done.delivery.job_id]
    opts = world.queue.jobs[queue_of("billing")][0].opts
    assert opts is not None
    assert (opts.delay, opts.priority, opts.removeOnComplete, opts.removeOnFail) == (1500, 7, True, True)


async def test_the_same_key_is_the_same_delivery_as_it_stands_now(world: World) -> None:
    first = await world.enqueue('{"target":"billing"}', "k")
    await world.ledger.cancel(Cancel(job_id=first.delivery.job_id, by="x", at_s=world.clock()))
    again = await world.enqueue('{"target":"billing"}', "k")
    assert (again.replayed, again.delivery.job_id) == (True, first.delivery.job_id)
    assert again.delivery.status is Status.CANCELLED
    with pytest.raises(IdempotencyMismatch):
        await world.enqueue('{"target":"billing","body":1}', "k")
    assert world.ids() == [first.delivery.job_id]


async def test_a_key_whose_job_could_not_be_queued_does_not_hide_it(world: World) -> None:
    world.queue.away = True
    first = await world.enqueue('{"target":"billing"}', "k")
    assert (world.ids(), world.unqueued) == ([], 1)  # accepted, and the recoverer knows
    world.queue.away = False
    again = await world.enqueue('{"target":"billing"}', "k")
    assert again.replayed
    assert world.ids() == [first.delivery.job_id]


async def test_nothing_is_accepted_that_is_not_in_the_ledger(world: World) -> None:
    world.ledger.go_away()
    with pytest.raises(LedgerUnavailable):
        await world.enqueue('{"target":"billing"}', "k")
    assert world.ids() == []
    world.ledger.come_back()
    assert not (await world.enqueue('{"target":"billing","body":1}', "k")).replayed


async def test_a_large_body_is_stored_before_its_row_and_only_a_reference_is_in_it(world: World) -> None:
    done = await world.enqueue(LARGE)
    content = world.ledger.envelopes[done.delivery.job_id].content
    assert isinstance(content, Stored)
    assert world.blobs.bodies == {content.name: b'"' + b"x" * 200 + b'"'}
    world.blobs.fault = BlobsUnavailable()
    with pytest.raises(BlobsUnavailable):
        await world.enqueue(LARGE.replace("x", "y"))
    assert len(world.ledger.deliveries) == 1


async def test_the_body_of_a_second_try_is_not_left_behind(world: World) -> None:
    text = LARGE
    await world.enqueue(text, "k")
    for _ in range(2):
        assert (await world.enqueue(text, "k")).replayed
    with pytest.raises(IdempotencyMismatch):
        await world.enqueue(text.replace("x", "y"), "k")
    assert len(world.blobs.bodies) == 1


async def test_what_is_refused_writes_nothing(world: World) -> None:
    with pytest.raises(UnknownTarget):
        await world.enqueue('{"target":"nowhere"}', "k")
    with pytest.raises(TorilError) as caught:
        await world.enqueue('{"target":"keyed","headers":{"x-key":"mine"}}', "k")
    assert caught.value.code == "invalid_envelope"
    assert (world.ledger.deliveries, world.blobs.bodies) == ({}, {})


async def test_several_are_accepted_each_for_itself_and_in_their_order(world: World) -> None:
    texts = [("billing", "k"), ("nowhere", None), ("billing", None), ("billing", "k"), ("keyed", "k")]
    some = [submission(json.dumps({"target": target}), key) for target, key in texts]
    results = await world.deliveries.enqueue_all(some)
    assert [getattr(result, "code", None) for result in results] == [None, "unknown_target", None, None, None]
    accepted = [result for result in results if isinstance(result, Enqueued)]
    assert [one.replayed for one in accepted] == [False, False, True, False]
    assert accepted[0].delivery.job_id == accepted[2].delivery.job_id
    assert world.ids()[:2] == [accepted[0].delivery.job_id, accepted[1].delivery.job_id]
    assert world.ids("keyed") == [accepted[3].delivery.job_id]


async def test_a_store_of_bodies_that_is_away_is_asked_once_for_a_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def put(name: str, body: bytes) -> None:
        asked.append(name)
        raise BlobsUnavailable

    monkeypatch.setattr(world.blobs, "put", put)
    texts = [LARGE, LARGE, '{"target":"billing"}', LARGE.replace("billing", "nowhere")]
    results = await world.deliveries.enqueue_all([submission(text) for text in texts])
    assert [type(result) for result in results] == [BlobsUnavailable, BlobsUnavailable, Enqueued, UnknownTarget]
    assert len(asked) == 1


async def test_one_that_the_ledger_refuses_spoils_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    accept = world.ledger.accept

    async def choosy(deliveries: Any) -> Any:
        return [StoreRefused() if new.priority == 13 else (await accept([new]))[0] for new in deliveries]

    monkeypatch.setattr(world.ledger, "accept", choosy)
    some = [submission(json.dumps({"target": "billing", "priority": priority})) for priority in (1, 13, 2)]
    results = await world.deliveries.enqueue_all(some)
    assert [isinstance(result, Enqueued) for result in results] == [True, False, True]
    assert len(world.ids()) == 2


async def test_cancelling_is_written_first_and_then_the_job_is_taken_out(world: World) -> None:
    one = (await world.enqueue('{"target":"billing"}')).delivery
    world.queue.away = True
    assert (await world.deliveries.cancel(one, "ops")).status is Status.CANCELLED
    with pytest.raises(JobRefused) as caught:
        await world.deliveries.cancel(one, "ops")
    assert caught.value.state == "cancelled"
    world.queue.away = False
    two = (await world.enqueue('{"target":"billing"}')).delivery
    await world.deliveries.cancel(two, "ops")
    assert world.queue.cancelled == [(queue_of("billing"), two.job_id)]
    await world.ledger.forget([two.job_id])
    with pytest.raises(JobNotFound):
        await world.deliveries.cancel(two, "ops")


async def test_what_this_ledger_does_not_have_may_be_in_another_one(world: World) -> None:
    one = (await world.enqueue('{"target":"billing"}')).delivery
    unknown = one.job_id[:-1] + "f"
    with pytest.raises(JobNotFound):
        await world.deliveries.find(unknown)
    world.others.append("other")
    with pytest.raises(LedgerElsewhere):
        await world.deliveries.find(unknown)
    with pytest.raises(JobNotFound):
        await world.deliveries.find("no-delivery's-id")
    assert await world.deliveries.find(one.job_id) == one


async def test_a_dead_letter_that_is_purged_leaves_no_job_without_a_row(world: World) -> None:
    deadline = '{"target":"billing","delay_ms":60000,"deadline":"2023-11-14T22:13:30Z"}'
    one = (await world.enqueue(deadline)).delivery
    world.clock.jump(20)
    expired = await world.ledger.expire(Expire(job_id=one.job_id, by="recoverer", at_s=world.clock()))
    assert isinstance(expired, Written)
    await world.deliveries.purge(expired.delivery)
    assert world.queue.cancelled == [(queue_of("billing"), one.job_id)]
    assert world.ledger.deliveries == {}
