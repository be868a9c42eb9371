"""A delivery's pipeline: what is in the ledger before what is done, and what a job comes to."""

import asyncio
import base64
import hashlib
import hmac
from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.engine.support import LOCK_S, Endpoints, patient, turns, until
from toril.core.breaker import BreakerState
from toril.core.delivery import AttemptOutcome, Cancel, Envelope, Inline, Lose, NewDelivery, Stored, Written, new_job_id
from toril.core.destinations.target import Target
from toril.core.errors import (
    BlobsUnavailable,
    LedgerUnavailable,
    RowRefused,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from toril.core.lease import Lease
from toril.core.lifecycle import Status, faults
from toril.core.outcome import ConnectFailed, CutOff, TimedOut
from toril.core.signing import Secret
from toril.core.target import BreakerPolicy, RetryPolicy, Signing, TargetSpec, Timeouts
from toril.engine.admission import BreakerGate
from toril.engine.delivery import Books, DeliveryExecutor
from toril.engine.journal import Journal
from toril.engine.ledger_fleet import LedgerFleet
from toril.engine.slot import Slot
from toril.intake.spill import Spill
from toril.testing import (
    FakeBlobs,
    FakeBreakers,
    FakeClock,
    FakeHolds,
    FakeLeaseStore,
    FakeLedger,
    FakeOutbound,
    FakeSightings,
    answered,
)

SPEC = TargetSpec(
    name="billing",
    url="http://billing.internal/api",
    timeout=Timeouts(total_s=20.0),
    retry=RetryPolicy(max_attempts=3, base_s=10.0, jitter=0.0),
    breaker=BreakerPolicy(failures=2, window_s=60.0, open_for_s=15.0, half_open_probes=1),
)
QUEUE = "deliver-billing"


class Room:
    """One slot and the pipeline of a target, all on fakes."""

    def __init__(self, clock: FakeClock, spec: TargetSpec = SPEC) -> None:
        self.clock = clock
        self.store = FakeLeaseStore(QUEUE, now=clock, lock_s=LOCK_S)
        self.endpoints = Endpoints()
        self.outbound = FakeOutbound(self._answer)
        self.ledger = FakeLedger()
        self.fleet = LedgerFleet(self.ledger, FakeSightings(clock), lambda: ["billing"], lambda: 0.0)
        self.blobs = FakeBlobs(clock)
        self.spill = Spill(self.blobs, 1000)
        self.breakers = FakeBreakers(clock)
        self.holds = FakeHolds()
        self.target = Target(spec, clock)
        self.executor = self.worker()
        self.slot = Slot(b"token:1")

    def worker(self) -> DeliveryExecutor:
        """A pipeline of another process."""
        settler = patient(2 * LOCK_S)
        journal = Journal(self.ledger, self.spill, self.target, by="worker", lease_s=30.0, now=self.clock)
        gate = BreakerGate(self.target, self.breakers, self.holds, settler, self.clock, 30.0)
        return DeliveryExecutor(
            self.target,
            self.store,
            self.outbound,
            settler,
            Books(journal, gate, self.fleet, lambda: 0.0, lambda *_: None),
        )

    async def _answer(self, request: Any) -> Any:
        return await self.endpoints(request)

    async def accept(self, job_id: str = "1", envelope: Envelope | None = None, **given: Any) -> None:
        """A delivery that the ledger and the queue have."""
        new = NewDelivery(
            job_id=job_id,
            target="billing",
            envelope=envelope or Envelope(content=Inline(job_id.encode())),
            at_s=self.clock(),
            max_attempts=3,
            by="caller",
            **given,
        )
        await self.ledger.accept([new])
        self.store.add(job_id)

    async def take(self) -> Lease:
        found = await self.store.take(self.slot.token)
        assert isinstance(found, Lease)
        found.renewed_at = asyncio.get_running_loop().time()
        self.slot.lease = found
        return found

    async def work(self, lease: Lease | None = None) -> Any:
        """Take a job through the pipeline, by default the next one."""
        taken = lease or await self.take()
        return await self.executor.execute(self.slot, taken, lambda: False)

    def statuses(self, job_id: str = "1") -> list[str]:
        history = self.ledger.transitions[job_id]
        assert faults(history) == []
        return [step.to.value for step in history]

    def attempts(self, job_id: str = "1") -> list[tuple[int, str]]:
        return [(attempt.number, attempt.outcome.value) for attempt in self.ledger.attempts[job_id]]


@pytest.fixture
def room(clock: FakeClock) -> Room:
    return Room(clock)


async def test_an_attempt_is_in_the_ledger_before_it_is_made_and_ended_before_its_job_moves(room: Room) -> None:
    await room.accept()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(room.work())
        await until(lambda: room.outbound.requests)
        assert room.statuses() == ["queued", "dispatching"]
        room.endpoints.answer(b"1", answered(200, b"done", headers=[(b"X", b"y")]))
        await task
    assert room.statuses() == ["queued", "dispatching", "delivered"]
    assert room.attempts() == [(1, "answered")]
    response = room.ledger.responses["1"]
    assert (response.status, response.headers, response.content) == (200, (("X", "y"),), Inline(b"done"))
    assert not room.store.active


async def test_a_failed_attempt_is_tried_again_later_by_the_target_s_policy(room: Room) -> None:
    await room.accept()
    room.endpoints.open(answered(503, reason="Busy"))
    await room.work()
    delivery = room.ledger.deliveries["1"]
    assert (delivery.status, delivery.attempts_made, delivery.last_error) == (Status.RETRYING, 1, "HTTP 503 Busy")
    assert delivery.next_attempt_at_s == pytest.approx(room.clock() + 10.0)
    assert room.store.delayed == {b"1": pytest.approx(room.clock() + 10.0, abs=0.01)}


async def test_the_attempt_budget_is_the_ledger_s_and_a_dead_letter_leaves_the_queue(room: Room) -> None:
    await room.accept()
    room.target.renew(TargetSpec(name="billing", url=SPEC.url, retry=SPEC.retry, breaker=BreakerPolicy(failures=100)))
    room.endpoints.open(answered(500))
    for _ in range(3):
        await room.work()
        room.clock.jump(100)
    assert room.statuses() == ["queued", *["dispatching", "retrying"] * 2, "dispatching", "dead_lettered"]
    assert room.ledger.deliveries["1"].reason == "attempts"
    assert [number for number, _ in room.attempts()] == [1, 2, 3]
    assert (await room.store.take(b"t")) is not None
    assert list(room.store.failed) == [b"1"]


async def test_a_deadline_that_is_over_lets_no_attempt_begin(room: Room) -> None:
    await room.accept(deadline_s=room.clock() + 5)
    lease = await room.take()
    room.clock.jump(6)
    await room.work(lease)
    assert room.outbound.requests == []
    assert room.ledger.deliveries["1"].reason == "deadline"
    assert not room.store.active


@pytest.mark.parametrize("known", [True, False])
async def test_what_is_over_or_no_delivery_leaves_the_queue_without_an_attempt(room: Room, known: bool) -> None:
    if known:
        await room.accept()
        await room.ledger.cancel(Cancel(job_id="1", by="caller", at_s=room.clock()))
    else:
        room.store.add("1")
    await room.work()
    assert room.outbound.requests == []
    assert not room.store.active
    assert not room.store.waiting


JOB_ID = new_job_id(1_700_000_000.0, bytes(10))


@pytest.mark.parametrize("data", [b'{"target":"billing"}', b'{"target":"billing","ledger":"fake"}', b"{}", b"["])
async def test_a_delivery_that_the_ledger_has_no_row_of_is_given_back_and_not_removed(room: Room, data: bytes) -> None:
    # Its row may be in the ledger of another instance, or come back with a backup.
    await room.fleet.look()
    room.store.add(JOB_ID, data=data)
    await room.work()
    assert room.outbound.requests == []
    assert list(room.store.delayed) == [JOB_ID.encode()]
    assert (room.store.completed, room.store.failed) == ({}, {})


async def test_a_job_that_names_another_ledger_is_given_back_before_ours_is_asked(room: Room) -> None:
    await room.fleet.look()
    room.store.add(JOB_ID, data=b'{"target":"billing","ledger":"other"}')
    room.ledger.go_away()
    await room.work()
    assert list(room.store.delayed) == [JOB_ID.encode()]
    assert room.store.jobs[JOB_ID.encode()].get(b"atm", b"0") == b"0"


async def test_a_job_of_the_version_before_ledgers_had_ids_is_delivered(room: Room) -> None:
    await room.fleet.look()
    await room.accept(JOB_ID)
    room.store.jobs[JOB_ID.encode()][b"data"] = b'{"target":"billing"}'
    room.endpoints.open()
    await room.work()
    assert room.statuses(JOB_ID) == ["queued", "dispatching", "delivered"]


async def test_a_row_that_is_gone_when_its_attempt_ends_does_not_remove_the_job(room: Room) -> None:
    await room.accept(JOB_ID)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(room.work())
        await until(lambda: room.outbound.requests)
        room.ledger.deliveries.clear()
        room.endpoints.answer(JOB_ID.encode(), answered(200))
        await task
    assert list(room.store.waiting) == [JOB_ID.encode()]


AWAY = pytest.mark.parametrize("fault", [LedgerUnavailable(), StoreRefused()], ids=["away", "refuses"])


@AWAY
async def test_while_the_ledger_is_away_a_job_is_held_and_then_attempted_once(room: Room, fault: StoreError) -> None:
    await room.accept()
    lease = await room.take()
    room.ledger.go_away(fault)
    room.endpoints.open()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(room.work(lease))
        await asyncio.sleep(60)
        assert room.outbound.requests == []
        assert list(room.store.active) == [b"1"]
        room.ledger.come_back()
        await task
    assert len(room.outbound.requests) == 1
    assert room.statuses() == ["queued", "dispatching", "delivered"]


@AWAY
async def test_what_came_of_an_attempt_is_kept_until_the_ledger_is_back_and_judged_once(
    room: Room, fault: StoreError
) -> None:
    await room.accept()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(room.work())
        await until(lambda: room.outbound.requests)
        room.ledger.go_away(fault)
        room.endpoints.answer(b"1", answered(503))
        await asyncio.sleep(60)
        assert list(room.store.active) == [b"1"], "its job does not move before the ledger knows"
        room.ledger.come_back()
        await task
    assert len(room.outbound.requests) == 1
    assert room.statuses() == ["queued", "dispatching", "retrying"]
    assert room.attempts() == [(1, "answered")]


async def test_an_answer_that_the_ledger_refuses_is_recorded_without_what_it_said(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    await room.accept()
    room.endpoints.open(answered(503, b"poison"))
    end = room.ledger.end

    async def choosy(change: Any) -> Any:
        if change.response is not None:
            raise RowRefused
        return await end(change)

    monkeypatch.setattr(room.ledger, "end", choosy)
    await room.work()
    assert len(room.outbound.requests) == 1
    assert room.statuses() == ["queued", "dispatching", "retrying"]
    assert room.ledger.attempts["1"][0].status_code == 503


@pytest.mark.parametrize("moment", ["before", "attempt", "after"])
async def test_a_worker_that_ends_gives_its_job_back_without_spending_an_attempt(room: Room, moment: str) -> None:
    await room.accept()
    lease = await room.take()
    if moment == "before":
        room.ledger.go_away()
    async with asyncio.TaskGroup() as tasks:
        room.slot.task = tasks.create_task(room.work(lease))
        await asyncio.sleep(5)
        if moment == "after":
            room.ledger.go_away()
            room.endpoints.answer(b"1", answered(200))
            await asyncio.sleep(5)
        room.slot.break_off()
        assert await room.slot.task is None
    assert list(room.store.waiting) == [b"1"]
    assert room.ledger.deliveries["1"].attempts_made == 0
    room.ledger.come_back()
    room.endpoints.open()
    await room.work()
    assert room.ledger.deliveries["1"].status is Status.DELIVERED
    expected = {"before": [(1, "answered")], "attempt": [(1, "cancelled"), (2, "answered")]}
    assert room.attempts() == expected.get(moment, [(1, "lost"), (2, "answered")])
    assert faults(room.ledger.transitions["1"]) == []


async def test_a_lost_lease_writes_nothing(room: Room) -> None:
    await room.accept()
    async with asyncio.TaskGroup() as tasks:
        lease = await room.take()
        room.slot.task = tasks.create_task(room.work(lease))
        await until(lambda: room.outbound.requests)
        lease.lost = True
        room.slot.break_off()
        assert await room.slot.task is None
    assert room.statuses() == ["queued", "dispatching"]
    assert list(room.store.active) == [b"1"]


async def test_who_takes_over_from_a_dead_worker_records_its_attempt_as_lost(room: Room) -> None:
    await room.accept()
    dead = await room.take()
    await room.executor._journal.begin(dead, "dead")
    room.endpoints.open()
    other = room.worker()
    await other.execute(room.slot, dead, lambda: False)
    assert room.attempts() == [(1, "lost"), (2, "answered")]
    assert room.statuses() == ["queued", "dispatching", "queued", "dispatching", "delivered"]


async def test_a_job_that_was_cancelled_while_it_ran_leaves_the_queue(room: Room) -> None:
    await room.accept()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(room.work())
        await until(lambda: room.outbound.requests)
        await room.ledger.cancel(Cancel(job_id="1", by="caller", at_s=room.clock()))
        room.endpoints.answer(b"1", answered(503))
        await task
    assert room.statuses() == ["queued", "dispatching", "cancelled"]
    assert not room.store.active
    assert not room.store.delayed


async def test_an_attempt_that_was_taken_for_lost_while_the_ledger_was_away_is_not_made_again(room: Room) -> None:
    await room.accept()
    async with asyncio.TaskGroup() as tasks:
        lease = await room.take()
        task = tasks.create_task(room.work(lease))
        await until(lambda: room.outbound.requests)
        room.ledger.go_away()
        room.endpoints.answer(b"1", answered(200))
        for _ in range(6):
            await asyncio.sleep(10)
            await room.store.extend([lease])
        room.ledger.come_back()
        lose = Lose(job_id="1", number=1, by="recoverer", at_s=room.clock())
        assert isinstance(await room.ledger.lose(lose), Written)
        await task
    assert room.statuses() == ["queued", "dispatching", "queued", "dispatching", "delivered"]
    assert room.attempts() == [(1, "answered")]
    assert not room.store.active
    assert not room.store.waiting


async def test_what_another_worker_has_begun_again_is_not_written_over(room: Room) -> None:
    await room.accept()
    async with asyncio.TaskGroup() as tasks:
        lease = await room.take()
        task = tasks.create_task(room.work(lease))
        await until(lambda: room.outbound.requests)
        await room.worker()._journal.begin(lease, "another")
        room.endpoints.answer(b"1", answered(200))
        await task
    assert room.statuses() == ["queued", "dispatching", "queued", "dispatching"]
    assert room.attempts() == [(1, "lost")]


async def test_a_lease_that_is_lost_while_the_ledger_is_away_does_not_forget_a_known_answer(room: Room) -> None:
    # Redis was flushed meanwhile, so the lock is gone; the recoverer would put the job back and have it sent again.
    await room.accept()
    async with asyncio.TaskGroup() as tasks:
        lease = await room.take()
        room.slot.task = tasks.create_task(room.work(lease))
        await until(lambda: room.outbound.requests)
        room.ledger.go_away()
        room.endpoints.answer(b"1", answered(200))
        await asyncio.sleep(5)
        lease.lost = True
        room.slot.break_off()
        await asyncio.sleep(5)
        room.ledger.come_back()
        assert await room.slot.task is None
    assert room.statuses() == ["queued", "dispatching", "delivered"]
    assert list(room.store.active) == [b"1"], "to the queue nothing is written"


async def test_a_worker_that_ends_does_not_wait_for_the_ledger_with_a_lost_lease(room: Room) -> None:
    await room.accept()
    async with asyncio.TaskGroup() as tasks:
        lease = await room.take()
        room.slot.task = tasks.create_task(room.work(lease))
        await until(lambda: room.outbound.requests)
        room.ledger.go_away()
        room.endpoints.answer(b"1", answered(200))
        await asyncio.sleep(5)
        lease.lost = True
        room.slot.break_off()
        await asyncio.sleep(5)
        room.slot.break_off()
        assert await room.slot.task is None


async def test_a_worker_that_ends_records_the_answer_that_it_knows(room: Room) -> None:
    await room.accept()
    async with asyncio.TaskGroup() as tasks:
        room.slot.task = tasks.create_task(room.work())
        await until(lambda: room.outbound.requests)
        room.ledger.go_away()
        room.endpoints.answer(b"1", answered(200))
        await asyncio.sleep(5)
        room.ledger.come_back()
        room.slot.break_off()
        assert await room.slot.task is None
    assert room.statuses() == ["queued", "dispatching", "delivered"]
    await room.work()
    assert len(room.outbound.requests) == 1
    assert not room.store.waiting


# The breaker


async def fail(room: Room, *job_ids: str) -> None:
    room.endpoints.open(answered(500))
    for job_id in job_ids:
        await room.accept(job_id)
        await room.work()


async def test_enough_failures_open_the_breaker_and_hold_the_queue(room: Room) -> None:
    await fail(room, "1")
    assert room.holds.held == {}
    await fail(room, "2")
    assert room.breakers.breakers["billing"].state is BreakerState.OPEN
    assert room.holds.held == {QUEUE: 15_000}


async def test_a_target_without_a_breaker_is_always_tried_and_never_held(clock: FakeClock) -> None:
    room = Room(clock, replace(SPEC, breaker=None))
    await fail(room, "1", "2", "3", "4")
    room.endpoints.open(answered(200))
    await room.accept("5")
    await room.work()
    assert room.statuses("5")[-1] == "delivered"
    assert (room.breakers.asked, room.breakers.breakers, room.holds.held) == (0, {}, {})


async def test_while_it_is_open_a_job_is_given_back_and_spends_no_attempt(room: Room) -> None:
    await fail(room, "1", "2")
    room.clock.jump(5)
    room.holds.held.clear()
    await room.accept("3")
    await room.work()
    assert list(room.store.waiting) == [b"3"]
    assert room.statuses("3") == ["queued"]
    assert room.holds.held == {QUEUE: 10_000}, "a hold that got lost is there again"


async def test_a_good_probe_closes_it_and_lets_the_queue_go(room: Room) -> None:
    await fail(room, "1", "2")
    room.clock.jump(15.1)
    room.endpoints.open(answered(200))
    await room.accept("3")
    await room.work()
    assert room.breakers.breakers["billing"].state is BreakerState.CLOSED
    assert room.holds.held == {}
    assert room.holds.log[-1] == ("let_go", QUEUE)


async def test_while_a_probe_finds_out_the_others_are_given_back(room: Room) -> None:
    await fail(room, "1", "2")
    room.clock.jump(15.1)
    room.endpoints = Endpoints()
    await room.accept("3")
    await room.accept("4")
    async with asyncio.TaskGroup() as tasks:
        probe = tasks.create_task(room.work())
        sent = len(room.outbound.requests)
        await until(lambda: len(room.outbound.requests) > sent)
        await room.work()
        assert room.store.waiting[0] == b"4"
        assert room.holds.held == {QUEUE: 1000}
        room.endpoints.answer(b"3", answered(503))
        await probe
    assert room.breakers.breakers["billing"].state is BreakerState.OPEN
    assert room.attempts("4") == []


async def test_a_probe_that_is_broken_off_makes_room(room: Room) -> None:
    await fail(room, "1", "2")
    room.clock.jump(15.1)
    room.endpoints = Endpoints()
    await room.accept("3")
    async with asyncio.TaskGroup() as tasks:
        room.slot.task = tasks.create_task(room.work())
        sent = len(room.outbound.requests)
        await until(lambda: len(room.outbound.requests) > sent)
        room.slot.break_off()
        await room.slot.task
    assert room.breakers.breakers["billing"].probes == ()


LACKING = ConnectFailed("EMFILE", "Too many open files", 0.0, exhausted=True)


async def test_what_this_machine_lacks_spends_no_attempt_and_does_not_speak_against_the_target(room: Room) -> None:
    room.endpoints.open(LACKING)
    await room.accept()
    for times in range(1, 6):
        await room.work()
        delivery = room.ledger.deliveries["1"]
        assert (delivery.status, delivery.attempts_made) == (Status.QUEUED, 0)
        assert room.attempts() == [(number + 1, "cancelled") for number in range(times)]
        room.clock.jump(0.1)
    assert room.holds.log == []
    room.endpoints.open()
    await room.work()
    assert (room.ledger.deliveries["1"].status, room.ledger.deliveries["1"].attempts_made) == (Status.DELIVERED, 1)


async def test_a_probe_that_this_machine_could_not_make_says_nothing(room: Room) -> None:
    await fail(room, "1", "2")
    room.clock.jump(15.1)
    room.endpoints.open(LACKING)
    await room.accept("3")
    await room.work()
    breaker = room.breakers.breakers["billing"]
    assert (breaker.state, breaker.probes, breaker.passed) == (BreakerState.HALF_OPEN, (), 0)


async def test_answers_that_say_the_target_is_well_open_nothing(room: Room) -> None:
    room.endpoints.open(answered(404))
    for job_id in ("1", "2", "3"):
        await room.accept(job_id)
        await room.work()
    assert room.holds.log == []


async def test_a_timeout_speaks_against_a_target(room: Room) -> None:
    room.endpoints.open(TimedOut("answer", 20.0))
    for job_id in ("1", "2"):
        await room.accept(job_id)
        await room.work()
    assert room.breakers.breakers["billing"].state is BreakerState.OPEN
    assert room.attempts() == [(1, "timeout")]


@pytest.mark.parametrize("fault", [StoreUnavailable(), StoreRefused("NOPERM")], ids=["away", "refuses"])
async def test_a_breaker_that_cannot_be_asked_holds_the_job_and_is_asked_seldom(room: Room, fault: StoreError) -> None:
    await room.accept()
    room.breakers.fault = fault
    room.endpoints.open()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(room.work())
        await asyncio.sleep(300)
        assert room.breakers.asked < 3 * 300, "a few times a second at most"
        assert room.statuses() == ["queued"]
        assert room.outbound.requests == []
        assert list(room.store.active) == [b"1"], "given back, it would be taken again at once"
        room.breakers.fault = None
        await task
    assert room.statuses() == ["queued", "dispatching", "delivered"]
    assert room.attempts() == [(1, "answered")]


async def test_a_job_that_waits_for_the_breaker_is_given_back_when_its_worker_ends(room: Room) -> None:
    await room.accept()
    room.breakers.fault = StoreRefused("NOPERM")
    async with asyncio.TaskGroup() as tasks:
        room.slot.task = tasks.create_task(room.work())
        await asyncio.sleep(5)
        room.slot.break_off()
        assert await room.slot.task is None
    assert list(room.store.waiting) == [b"1"]


# Bodies


async def stored(room: Room, body: bytes) -> Envelope:
    kept = await room.spill.keep("deliveries", "1", "request", body)
    assert not isinstance(kept, bytes)
    return Envelope(content=Stored(kept.name, kept.size_bytes))


async def test_a_spilled_body_is_whole_again_when_it_is_sent(room: Room) -> None:
    body = b"x" * 5000
    await room.accept(envelope=await stored(room, body))
    room.endpoints.open()
    await room.work()
    assert [request.body for request in room.outbound.requests] == [body]


async def test_a_large_body_is_read_while_it_is_sent(room: Room) -> None:
    body = bytes(range(256)) * 8192
    await room.accept(envelope=await stored(room, body))
    room.endpoints.open()
    await room.work()
    (request,) = room.outbound.requests
    assert request.stream is not None
    assert (request.stream.size_bytes, request.body) == (len(body), b"")
    assert b"".join([piece async for piece in request.stream.open()]) == body


@pytest.mark.parametrize("size", [100, 5000, 2_000_000])
async def test_a_body_is_signed_whole_wherever_it_is(clock: FakeClock, size: int) -> None:
    key = b"k" * 32
    room = Room(clock, replace(SPEC, signing=Signing(secret_file="/x", secrets=(Secret(key),))))
    body = b"x" * size
    await room.accept(envelope=await stored(room, body) if size > 1000 else Envelope(content=Inline(body)))
    room.endpoints.open()
    await room.work()
    (request,) = room.outbound.requests
    head = dict(line.split(b": ", 1) for line in request.head.split(b"\r\n")[1:-1])
    signed = b"%b.%b.%b" % (head[b"webhook-id"], head[b"webhook-timestamp"], body)
    assert head[b"webhook-id"] == b"1"
    assert head[b"webhook-signature"] == b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
    assert (request.stream is not None) == (size > 1_000_000)


async def test_while_the_store_is_away_the_job_is_snoozed(room: Room) -> None:
    await room.accept(envelope=await stored(room, b"x" * 5000))
    room.blobs.fault = BlobsUnavailable()
    await room.work()
    assert room.outbound.requests == []
    delivery = room.ledger.deliveries["1"]
    assert (delivery.status, delivery.attempts_made) == (Status.QUEUED, 0)
    assert list(room.store.delayed) == [b"1"]
    room.blobs.fault = None
    room.clock.jump(6)
    room.endpoints.open()
    await room.work()
    assert room.ledger.deliveries["1"].status is Status.DELIVERED


async def test_a_body_that_is_gone_makes_a_dead_letter(room: Room) -> None:
    await room.accept(envelope=await stored(room, b"x" * 5000))
    room.blobs.bodies.clear()
    await room.work()
    assert room.ledger.deliveries["1"].reason == "body_lost"
    assert not room.store.active


async def test_a_large_answer_is_spilled_and_one_that_cannot_be_is_shortened(room: Room) -> None:
    await room.accept("1")
    await room.accept("2")
    room.endpoints.open(answered(200, b"y" * 5000))
    await room.work()
    content = room.ledger.responses["1"].content
    assert isinstance(content, Stored)
    assert room.blobs.bodies[content.name] == b"y" * 5000
    room.blobs.fault = BlobsUnavailable()
    await room.work()
    response = room.ledger.responses["2"]
    assert (response.content, response.truncated) == (Inline(b"y" * 1000), True)
    assert room.ledger.deliveries["2"].status is Status.DELIVERED


async def test_each_way_not_to_get_an_answer_has_its_name(room: Room) -> None:
    ways = {
        "a": (ConnectFailed("ERR_TLS", "", 0.1), AttemptOutcome.TLS_ERROR),
        "b": (ConnectFailed("ECONNREFUSED", "", 0.1), AttemptOutcome.CONNECT_ERROR),
        "c": (CutOff("ECONNRESET", "", 0.1), AttemptOutcome.CUT_OFF),
        "d": (ConnectFailed("EGRESS_DENIED", "", 0.1), AttemptOutcome.EGRESS_REFUSED),
    }
    room.target.renew(TargetSpec(name="billing", url=SPEC.url, breaker=BreakerPolicy(failures=100)))
    for job_id, (outcome, name) in ways.items():
        room.endpoints.open(outcome)
        await room.accept(job_id)
        await room.work()
        assert room.attempts(job_id) == [(1, name.value)]
    await turns(1)
