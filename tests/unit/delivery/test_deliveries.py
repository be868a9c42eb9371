"""Deliveries taken in: spilled, committed, queued, in that order; a crash or an outage in between loses none."""

import asyncio
import itertools
import json
from collections import Counter
from typing import Any

import pytest

from tests.unit.delivery.fake_queues import FakeTargetQueues
from toril.bullmq.rules.groups import GroupOption
from toril.core.errors import (
    BlobsUnavailable,
    GroupFull,
    IdempotencyMismatch,
    InvalidEnvelope,
    JobNotFound,
    JobRefused,
    LedgerElsewhere,
    LedgerUnavailable,
    StoreRefused,
    TorilError,
    UnknownTarget,
)
from toril.delivery.deliveries import Deliveries, DeliveryBodies, Enqueued, InstanceContext
from toril.delivery.rules.changes import Cancel, Expire, Refused, Replay, Written
from toril.delivery.rules.delivery import Stored, queue_of
from toril.delivery.rules.enqueue import read_envelope
from toril.delivery.rules.lifecycle import Status
from toril.delivery.rules.target import TargetAuth, TargetSpec
from toril.payloads.payload_offload import PayloadOffload
from toril.testing import FakeBlobs, FakeClock, FakeLedger

LARGE = json.dumps({"target": "billing", "body": "x" * 200})
EXPIRING = json.dumps({"target": "billing", "deadline": "2023-11-14T22:13:30Z"})


class World:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = FakeLedger()
        self.queue = FakeTargetQueues()
        self.blobs = FakeBlobs(self.clock)
        self.unqueued = 0
        targets = {
            "billing": TargetSpec(name="billing", url="http://b"),
            "grouped": TargetSpec(name="grouped", url="http://g", group_by="tenant"),
            "keyed": TargetSpec(name="keyed", url="http://k", auth=TargetAuth(scheme="header", header="X-Key")),
        }
        self.queue.labels = {"grouped": "tenant"}
        numbers = itertools.count(1)
        self.others: list[str] = []
        here = InstanceContext(
            "gateway", self.clock, lambda count: next(numbers).to_bytes(count, "big"), lambda: self.others
        )
        self.deliveries = Deliveries(
            self.ledger,
            self.queue.ports,
            DeliveryBodies(PayloadOffload(self.blobs, 100), self.blobs),
            targets.get,
            here,
            self._unqueued,
        )

    def _unqueued(self) -> None:
        self.unqueued += 1

    def ids(self, target: str = "billing") -> list[str]:
        return self.queue.ids(queue_of(target))

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
    opts = world.queue.jobs[queue_of("billing")][done.delivery.job_id].opts
    assert opts is not None
    assert (opts.delay, opts.priority, opts.removeOnComplete, opts.removeOnFail) == (1500, 7, True, True)


async def test_the_same_key_returns_the_same_delivery_in_its_present_state(world: World) -> None:
    first = await world.enqueue('{"target":"billing"}', "k")
    await world.ledger.cancel(Cancel(job_id=first.delivery.job_id, by="x", at_s=world.clock()))
    again = await world.enqueue('{"target":"billing"}', "k")
    assert (again.replayed, again.delivery.job_id) == (True, first.delivery.job_id)
    assert again.delivery.status is Status.CANCELLED
    with pytest.raises(IdempotencyMismatch):
        await world.enqueue('{"target":"billing","body":1}', "k")
    assert world.ids() == [first.delivery.job_id]


async def test_a_second_try_under_a_key_queues_a_job_that_could_not_be_queued_before(world: World) -> None:
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


async def test_the_body_of_a_duplicate_is_removed_from_the_store(world: World) -> None:
    text = LARGE
    await world.enqueue(text, "k")
    for _ in range(2):
        assert (await world.enqueue(text, "k")).replayed
    with pytest.raises(IdempotencyMismatch):
        await world.enqueue(text.replace("x", "y"), "k")
    assert len(world.blobs.bodies) == 1


async def test_a_refused_envelope_writes_nothing(world: World) -> None:
    with pytest.raises(UnknownTarget):
        await world.enqueue('{"target":"nowhere"}', "k")
    with pytest.raises(TorilError) as caught:
        await world.enqueue('{"target":"keyed","headers":{"x-key":"mine"}}', "k")
    assert caught.value.code == "invalid_envelope"
    assert (world.ledger.deliveries, world.blobs.bodies) == ({}, {})


async def test_the_envelopes_of_a_batch_are_accepted_independently_and_in_order(world: World) -> None:
    texts = [("billing", "k"), ("nowhere", None), ("billing", None), ("billing", "k"), ("keyed", "k")]
    some = [submission(json.dumps({"target": target}), key) for target, key in texts]
    results = await world.deliveries.enqueue_all(some)
    assert [getattr(result, "code", None) for result in results] == [None, "unknown_target", None, None, None]
    accepted = [result for result in results if isinstance(result, Enqueued)]
    assert [one.replayed for one in accepted] == [False, False, True, False]
    assert accepted[0].delivery.job_id == accepted[2].delivery.job_id
    assert world.ids()[:2] == [accepted[0].delivery.job_id, accepted[1].delivery.job_id]
    assert world.ids("keyed") == [accepted[3].delivery.job_id]


async def test_a_blob_store_that_is_away_is_asked_once_per_batch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def put(name: str, body: bytes) -> None:
        asked.append(name)
        raise BlobsUnavailable

    monkeypatch.setattr(world.blobs, "put", put)
    texts = [LARGE, LARGE, '{"target":"billing"}', LARGE.replace("billing", "nowhere")]
    results = await world.deliveries.enqueue_all([submission(text) for text in texts])
    assert [type(result) for result in results] == [BlobsUnavailable, BlobsUnavailable, Enqueued, UnknownTarget]
    assert len(asked) == 1


async def test_an_envelope_that_the_ledger_refuses_affects_no_other_of_its_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = world.ledger.accept

    async def choosy(deliveries: Any) -> Any:
        return [StoreRefused() if new.priority == 13 else (await accept([new]))[0] for new in deliveries]

    monkeypatch.setattr(world.ledger, "accept", choosy)
    some = [submission(json.dumps({"target": "billing", "priority": priority})) for priority in (1, 13, 2)]
    results = await world.deliveries.enqueue_all(some)
    assert [isinstance(result, Enqueued) for result in results] == [True, False, True]
    assert len(world.ids()) == 2


async def test_a_cancel_is_written_to_the_ledger_before_the_job_leaves_its_queue(world: World) -> None:
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


async def test_an_unknown_delivery_may_be_in_another_ledger(world: World) -> None:
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


async def test_purging_a_dead_letter_removes_its_job_before_its_row(world: World) -> None:
    deadline = '{"target":"billing","delay_ms":60000,"deadline":"2023-11-14T22:13:30Z"}'
    one = (await world.enqueue(deadline)).delivery
    world.clock.jump(20)
    expired = await world.ledger.expire(Expire(job_id=one.job_id, by="recoverer", at_s=world.clock()))
    assert isinstance(expired, Written)
    await world.deliveries.purge(expired.delivery)
    assert world.queue.cancelled == [(queue_of("billing"), one.job_id)]
    assert world.ledger.deliveries == {}


async def test_when_the_ledger_fails_during_a_replay_the_recoverer_queues_the_replayed_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = [(await world.enqueue(EXPIRING)).delivery for _ in range(2)]
    for one in letters:
        await world.ledger.expire(Expire(job_id=one.job_id, by="x", at_s=world.clock() + 3600))
    replay, asked = world.ledger.replay, []

    async def once(change: Replay) -> Written | Refused:
        asked.append(change.job_id)
        if len(asked) > 1:
            raise LedgerUnavailable
        return await replay(change)

    monkeypatch.setattr(world.ledger, "replay", once)
    with pytest.raises(LedgerUnavailable):
        await world.deliveries.replay(letters, "ops")
    replayed = await world.ledger.get(asked[0])
    assert replayed is not None
    assert replayed.status is Status.QUEUED
    assert world.unqueued == 1


def of(tenant: str, **more: Any) -> str:
    """An envelope of a tenant."""
    return json.dumps({"target": "grouped", "labels": {"tenant": tenant}} | more)


async def test_a_delivery_is_queued_in_the_group_of_its_label(world: World) -> None:
    done = await world.enqueue(of("acme", priority=7))
    plain = await world.enqueue('{"target":"grouped","labels":{"other":"acme"}}')
    named, none = (world.queue.jobs[queue_of("grouped")][one.delivery.job_id].opts for one in (done, plain))
    assert named is not None
    assert none is not None
    assert (named.as_shown()["group"], "group" in none.as_shown()) == ({"id": "acme", "priority": 7}, False)


async def test_the_group_of_the_envelope_wins_over_the_label(world: World) -> None:
    done = await world.enqueue(of("a" * 257, priority=7, group={"id": 7, "priority": 0}))
    ranked = await world.enqueue('{"target":"billing","group":{"id":"acme","priority":3}}')
    assert (done.delivery.group, ranked.delivery.group) == (GroupOption("7"), GroupOption("acme", 3))
    for target, one, shown in (("grouped", done, {"id": "7"}), ("billing", ranked, {"id": "acme", "priority": 3})):
        opts = world.queue.jobs[queue_of(target)][one.delivery.job_id].opts
        assert opts is not None
        assert opts.as_shown()["group"] == shown


@pytest.mark.parametrize("group", [{"id": ""}, {"id": "a\n"}, {"id": "a" * 257}, {"id": "a", "priority": 2097153}, {}])
async def test_an_envelope_whose_group_cannot_be_is_refused(world: World, group: dict[str, Any]) -> None:
    with pytest.raises(InvalidEnvelope) as raised:
        await world.enqueue(json.dumps({"target": "billing", "group": group}))
    assert raised.value.details()["field"] == "group"
    assert not world.ledger.deliveries


async def test_a_full_group_of_envelopes_is_refused_as_that_of_a_label_is(world: World) -> None:
    world.queue.most = {"acme": 2}
    some = [submission('{"target":"billing","group":{"id":"acme"}}') for _ in range(3)]
    results = await world.deliveries.enqueue_all(some)
    assert [type(result) for result in results] == [Enqueued, Enqueued, GroupFull]


async def test_a_label_that_can_be_no_group_is_refused_before_the_ledger_has_it(world: World) -> None:
    with pytest.raises(InvalidEnvelope, match=r"labels\.tenant: Invalid group\.id"):
        await world.enqueue(of("a" * 257))
    assert not world.ledger.deliveries


async def test_a_full_group_is_refused_before_the_ledger_has_it_and_others_are_accepted(world: World) -> None:
    world.queue.most = {"acme": 2}
    for _ in range(2):
        await world.enqueue(of("acme"))
    with pytest.raises(GroupFull):
        await world.enqueue(of("acme"))
    await world.enqueue(of("acme", delay_ms=1000))
    await world.enqueue(of("other"))
    assert len(world.ledger.deliveries) == 4


async def test_a_batch_fills_a_group_and_no_more(world: World) -> None:
    world.queue.most = {"acme": 2}
    results = await world.deliveries.enqueue_all([submission(of(name)) for name in ("acme", "b", "acme", "acme")])
    assert [isinstance(result, Enqueued) for result in results] == [True, True, True, False]
    assert isinstance(results[3], GroupFull)
    assert len(world.ledger.deliveries) == 3


async def test_envelopes_at_the_same_moment_do_not_pass_the_limit_together(world: World) -> None:
    world.queue.most = {"acme": 3}
    async with asyncio.TaskGroup() as tasks:
        adding = [tasks.create_task(world.deliveries._attempted(world.enqueue(of("acme")))) for _ in range(9)]
    assert Counter(type(task.result()) for task in adding) == {Enqueued: 3, GroupFull: 6}
    assert (len(world.ledger.deliveries), world.queue.taken) == (3, {})


async def test_an_envelope_that_is_not_accepted_keeps_no_room(world: World) -> None:
    world.queue.most = {"acme": 5}
    await world.enqueue(of("acme"), "once")
    await world.enqueue(of("acme"), "once")
    with pytest.raises(IdempotencyMismatch):
        await world.enqueue(of("acme", path="/other"), "once")
    world.blobs.fault = BlobsUnavailable()
    with pytest.raises(BlobsUnavailable):
        await world.enqueue(of("acme", body="x" * 200))
    assert world.queue.taken == {}


async def test_without_redis_a_group_is_taken_to_have_room(world: World) -> None:
    world.queue.most = {"acme": 0}
    world.queue.away = True
    await world.enqueue(of("acme"))
    assert (len(world.ledger.deliveries), world.unqueued) == (1, 1)
