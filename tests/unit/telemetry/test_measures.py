import asyncio
from typing import Any

import pytest

from tests.unit.engine.support import LOCK_S, POLICY
from toril.core.lease import Lease
from toril.core.metrics import ATTEMPT_SECONDS, ATTEMPTS, JOB_SECONDS, JOBS_STALLED, LEASES_LOST, WAIT_SECONDS
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut, WorkerError
from toril.core.stored_job import StoredOptions, read_options
from toril.core.verdict import Complete, Fail, HandOver, Retry, Snooze, Verdict
from toril.engine.handovers import Handovers
from toril.engine.settler import Settler
from toril.engine.slot import Slot
from toril.telemetry.loop_lag import EVERY_S, LoopLag
from toril.telemetry.measures import Measures
from toril.testing import FakeClock, FakeLeasedQueues, FakeLeaseStore, FakeMeter, FakeSettlementNotifications

LABELS = ("push_worker", "orders")
DONE = Complete(b"1")


def lease(made: int = 0, **fields: str) -> Lease:
    options: StoredOptions = read_options(b"{}")
    stored = {name.encode(): value.encode() for name, value in fields.items()}
    return Lease(queue="orders", job_id=b"1", token=b"t", fields=stored, options=options, attempts_made=made)


def measures(now_s: float = 100.0) -> tuple[Measures, FakeMeter]:
    meter = FakeMeter()
    return Measures(meter, lambda: now_s), meter


@pytest.mark.parametrize(
    ("fields", "waited_s"),
    [
        ({"timestamp": "98500"}, 1.5),
        ({"timestamp": "90000", "delay": "9000"}, 1.0),
        ({"timestamp": "200000"}, 0.0),  # another machine's clock is ahead
        ({"timestamp": "nonsense", "delay": "-1"}, 100.0),
    ],
)
def test_a_job_waits_from_when_it_was_due(fields: dict[str, str], waited_s: float) -> None:
    measured, meter = measures()
    measured.began(LABELS, lease(**fields))
    assert meter.values(WAIT_SECONDS) == [(LABELS, pytest.approx(waited_s))]


def test_how_long_a_retried_job_waited_is_not_known() -> None:
    measured, meter = measures()
    measured.began(LABELS, lease(made=1, timestamp="98500"))
    assert meter.observed == []


@pytest.mark.parametrize(
    ("outcome", "verdict", "labels"),
    [
        (Answered(204, "", [], b"", 0.5), DONE, ("2xx", "complete")),
        (Answered(503, "", [], b"", 0.5), Retry(0, "", ""), ("5xx", "retry")),
        (TimedOut("answer", 0.5), Fail("", ""), ("timed_out", "fail")),
        (ConnectFailed("ECONNREFUSED", "", 0.5), Fail("", ""), ("connect_failed", "fail")),
        (CutOff("ECONNRESET", "", 0.5), Retry(0, "", ""), ("cut_off", "retry")),
        (Replied(b"1", None, 0.5), DONE, ("result", "complete")),
        (Replied(b"", WorkerError("no"), 0.5), Fail("", ""), ("error", "fail")),
        (Replied(b"", None, 0.5, Snooze(5000, "")), Snooze(5000, ""), ("none", "snooze")),
    ],
)
def test_an_attempt_is_told_by_what_came_and_what_was_decided(
    outcome: Outcome, verdict: Verdict, labels: tuple[str, str]
) -> None:
    measured, meter = measures()
    measured.attempted(LABELS, lease(), outcome, verdict)
    assert meter.counts == {(ATTEMPTS, (*LABELS, *labels)): 1}
    assert meter.values(ATTEMPT_SECONDS) == [(LABELS, 0.5)]


def test_an_attempt_that_is_handed_over_is_not_told_before_it_is_settled() -> None:
    measured, meter = measures()
    measured.attempted(LABELS, lease(), Answered(202, "", [], b"", 0.5), HandOver(30_000))
    assert (meter.counts, meter.observed) == ({}, [])


def test_a_reported_attempt_began_when_its_worker_took_the_job() -> None:
    measured, meter = measures()
    measured.reported(LABELS, lease(processedOn="97000"), "result", "complete")
    measured.reported(LABELS, lease(), "none", "release")
    assert meter.values(ATTEMPT_SECONDS) == [(LABELS, pytest.approx(3.0))]
    assert sum(meter.counts.values()) == 2


@pytest.mark.parametrize(
    ("verdict", "told"),
    [(DONE, [(("orders", "complete"), 40.0)]), (Fail("", ""), [(("orders", "fail"), 40.0)]), (Retry(0, "", ""), [])],
)
def test_the_duration_of_a_job_is_from_its_addition_to_its_end(verdict: Verdict, told: list[Any]) -> None:
    measured, meter = measures()
    measured.settled(lease(timestamp="60000", delay="5000"), verdict)
    assert meter.values(JOB_SECONDS) == told


async def settled(clock: FakeClock, *, stolen: bool) -> FakeMeter:
    measured, meter = measures()
    store = FakeLeaseStore("orders", now=clock, lock_s=LOCK_S)
    store.add("1")
    slot = Slot(b"token:1")
    taken = await store.take(slot.token)
    assert isinstance(taken, Lease)
    taken.renewed_at = asyncio.get_running_loop().time()
    if stolen:
        store.steal(b"1")
    handovers = Handovers(FakeLeasedQueues(), FakeSettlementNotifications(), instance_id="instance", now=clock)
    await Settler(2 * LOCK_S, handovers, measured).settle(store, slot, taken, DONE, lambda: False)
    return meter


async def test_the_settler_tells_of_a_job_that_ended(clock: FakeClock) -> None:
    meter = await settled(clock, stolen=False)
    assert [labels for labels, _ in meter.values(JOB_SECONDS)] == [("orders", "complete")]
    assert meter.counts == {}


async def test_the_settler_tells_of_a_lease_that_was_lost_and_of_no_end(clock: FakeClock) -> None:
    meter = await settled(clock, stolen=True)
    assert meter.values(JOB_SECONDS) == []
    assert meter.counts == {(LEASES_LOST, ("orders",)): 1}


def test_stalled_jobs_are_counted() -> None:
    measured, meter = measures()
    measured.stalled("orders")
    assert meter.counts == {(JOBS_STALLED, ("orders",)): 1}


async def test_the_lag_is_how_late_the_event_loop_is(clock: FakeClock) -> None:
    meter = FakeMeter()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(LoopLag(meter).run())
        await asyncio.sleep(POLICY.poll_interval_s)
        running.cancel()
    assert len(meter.observed) >= POLICY.poll_interval_s / EVERY_S - 2
    assert all(value >= 0 for _, _, value in meter.observed)
