"""The delivery executor and the circuit breaker of its target."""

import asyncio

import pytest
from msgspec.structs import replace

from tests.unit.delivery.pipeline import QUEUE, SPEC, Pipeline
from tests.unit.engine.support import Endpoints, until
from toril.core.errors import (
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from toril.core.outcome import ConnectFailed, TimedOut
from toril.delivery.rules.breaker import Breaker, BreakerState
from toril.delivery.rules.changes import Begin, Begun, Refused
from toril.delivery.rules.lifecycle import Status
from toril.delivery.rules.retry_policy import RetryPolicy
from toril.testing import (
    FakeClock,
    answered,
)


async def fail(pipeline: Pipeline, *job_ids: str) -> None:
    pipeline.endpoints.open(answered(500))
    for job_id in job_ids:
        await pipeline.accept(job_id)
        await pipeline.work()


async def test_enough_failures_open_the_breaker_and_hold_the_queue(pipeline: Pipeline) -> None:
    await fail(pipeline, "1")
    assert pipeline.holds.held == {}
    await fail(pipeline, "2")
    assert pipeline.breakers.breakers["billing"].state is BreakerState.OPEN
    assert pipeline.holds.held == {QUEUE: 15_000}


async def test_a_target_without_a_breaker_is_always_tried_and_never_held(clock: FakeClock) -> None:
    pipeline = Pipeline(clock, replace(SPEC, breaker=None))
    await fail(pipeline, "1", "2", "3", "4")
    pipeline.endpoints.open(answered(200))
    await pipeline.accept("5")
    await pipeline.work()
    assert pipeline.statuses("5")[-1] == "delivered"
    assert (pipeline.breakers.breakers["billing"], pipeline.holds.held) == (Breaker(), {})


async def test_while_the_breaker_is_open_a_job_is_given_back_and_spends_no_attempt(pipeline: Pipeline) -> None:
    await fail(pipeline, "1", "2")
    pipeline.clock.jump(5)
    pipeline.holds.held.clear()
    await pipeline.accept("3")
    await pipeline.work()
    assert list(pipeline.store.waiting) == [b"3"]
    assert pipeline.statuses("3") == ["queued"]
    assert pipeline.holds.held == {QUEUE: 10_000}, "a hold that got lost is there again"


async def test_a_successful_probe_closes_the_breaker_and_releases_the_queue(pipeline: Pipeline) -> None:
    await fail(pipeline, "1", "2")
    pipeline.clock.jump(15.1)
    pipeline.endpoints.open(answered(200))
    await pipeline.accept("3")
    await pipeline.work()
    assert pipeline.breakers.breakers["billing"].state is BreakerState.CLOSED
    assert pipeline.holds.held == {}
    assert pipeline.holds.log[-1] == ("let_go", QUEUE)


async def test_while_a_probe_is_under_way_other_jobs_are_given_back(pipeline: Pipeline) -> None:
    await fail(pipeline, "1", "2")
    pipeline.clock.jump(15.1)
    pipeline.endpoints = Endpoints()
    await pipeline.accept("3")
    await pipeline.accept("4")
    async with asyncio.TaskGroup() as tasks:
        probe = tasks.create_task(pipeline.work())
        sent = len(pipeline.outbound.requests)
        await until(lambda: len(pipeline.outbound.requests) > sent)
        await pipeline.work()
        assert pipeline.store.waiting[0] == b"4"
        assert pipeline.holds.held == {QUEUE: 1000}
        pipeline.endpoints.answer(b"3", answered(503))
        await probe
    assert pipeline.breakers.breakers["billing"].state is BreakerState.OPEN
    assert pipeline.attempts("4") == []


async def test_an_aborted_probe_frees_its_place(pipeline: Pipeline) -> None:
    await fail(pipeline, "1", "2")
    pipeline.clock.jump(15.1)
    pipeline.endpoints = Endpoints()
    await pipeline.accept("3")
    async with asyncio.TaskGroup() as tasks:
        pipeline.slot.task = tasks.create_task(pipeline.work())
        sent = len(pipeline.outbound.requests)
        await until(lambda: len(pipeline.outbound.requests) > sent)
        pipeline.slot.break_off()
        await pipeline.slot.task
    assert pipeline.breakers.breakers["billing"].probes == ()


async def test_an_attempt_that_waited_for_the_ledger_is_not_made_when_the_breaker_opened_meanwhile(
    pipeline: Pipeline,
) -> None:
    await pipeline.accept()
    pipeline.ledger.go_away()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pipeline.work())
        await asyncio.sleep(5)
        await pipeline.breakers.hold("billing", 30.0)
        pipeline.ledger.come_back()
    assert pipeline.outbound.requests == []
    assert pipeline.statuses() == ["queued", "dispatching", "queued"]
    assert list(pipeline.store.delayed) == [b"1"]


LACKING = ConnectFailed("EMFILE", "Too many open files", 0.0, exhausted=True)


async def test_a_lack_of_sockets_spends_no_attempt_and_is_no_failure_of_the_target(pipeline: Pipeline) -> None:
    pipeline.endpoints.open(LACKING)
    await pipeline.accept()
    for times in range(1, 6):
        await pipeline.work()
        delivery = pipeline.ledger.deliveries["1"]
        assert (delivery.status, delivery.attempts_made) == (Status.QUEUED, 0)
        assert pipeline.attempts() == [(number + 1, "cancelled") for number in range(times)]
        pipeline.clock.jump(0.1)
    assert pipeline.holds.log == []
    pipeline.endpoints.open()
    await pipeline.work()
    assert (pipeline.ledger.deliveries["1"].status, pipeline.ledger.deliveries["1"].attempts_made) == (
        Status.DELIVERED,
        1,
    )


async def test_a_probe_that_this_machine_could_not_make_does_not_count(pipeline: Pipeline) -> None:
    await fail(pipeline, "1", "2")
    pipeline.clock.jump(15.1)
    pipeline.endpoints.open(LACKING)
    await pipeline.accept("3")
    await pipeline.work()
    breaker = pipeline.breakers.breakers["billing"]
    assert (breaker.state, breaker.probes, breaker.passed) == (BreakerState.HALF_OPEN, (), 0)


async def test_answers_of_a_healthy_target_do_not_open_the_breaker(pipeline: Pipeline) -> None:
    pipeline.endpoints.open(answered(400))
    for job_id in ("1", "2", "3"):
        await pipeline.accept(job_id)
        await pipeline.work()
    assert pipeline.holds.log == []


async def test_a_target_that_does_not_know_us_is_shut_also_by_last_attempts(clock: FakeClock) -> None:
    pipeline = Pipeline(clock, replace(SPEC, retry=RetryPolicy(max_attempts=1)))
    pipeline.endpoints.open(answered(401))
    for job_id in ("1", "2"):
        await pipeline.accept(job_id)
        await pipeline.work()
        assert pipeline.statuses(job_id)[-1] == "dead_lettered"
    assert pipeline.breakers.breakers["billing"].state is BreakerState.OPEN


async def test_a_success_ends_the_row_of_failures(pipeline: Pipeline) -> None:
    for number in range(0, 20, 2):
        await fail(pipeline, str(number))
        pipeline.endpoints.open(answered(204))
        await pipeline.accept(str(number + 1))
        await pipeline.work()
        assert pipeline.breakers.breakers["billing"].counted == 0, "reported at once while failures are counted"
    assert pipeline.holds.log == []


async def test_successes_without_failures_are_reported_with_a_later_question(pipeline: Pipeline) -> None:
    pipeline.endpoints.open(answered(200))
    for number in range(50):
        await pipeline.accept(str(number))
        await pipeline.work()
    assert pipeline.breakers.asked < 55, "a success makes no call of its own"
    await asyncio.sleep(0.2)
    await fail(pipeline, "last")
    (counted,) = pipeline.breakers.breakers["billing"].slices
    assert (counted.attempts, counted.failures) == (51, 1)


async def test_retry_after_holds_the_target_and_spends_no_further_attempt(pipeline: Pipeline) -> None:
    pipeline.endpoints.open(answered(429, headers=[(b"retry-after", b"120")]))
    await pipeline.accept("1")
    await pipeline.work()
    assert pipeline.holds.held == {QUEUE: 120_000}
    pipeline.clock.jump(20)
    pipeline.holds.held.clear()
    await pipeline.accept("2")
    await pipeline.work()
    assert (pipeline.statuses("2"), list(pipeline.store.waiting)) == (["queued"], [b"2"])
    assert pipeline.holds.held == {QUEUE: 100_000}, "a hold that got lost is there again"
    assert pipeline.breakers.breakers["billing"].counted == 1, "it counts for the breaker"


async def test_a_hold_needs_no_breaker(clock: FakeClock) -> None:
    pipeline = Pipeline(clock, replace(SPEC, breaker=None))
    pipeline.endpoints.open(answered(503, headers=[(b"retry-after", b"60")]))
    await pipeline.accept("1")
    await pipeline.work()
    await pipeline.accept("2")
    await pipeline.work()
    assert (pipeline.holds.held, pipeline.statuses("2")) == ({QUEUE: 60_000}, ["queued"])


async def test_a_breaker_that_closes_leaves_a_hold(pipeline: Pipeline) -> None:
    await fail(pipeline, "1", "2")
    pipeline.clock.jump(15.1)
    await pipeline.accept("3")
    pipeline.endpoints = Endpoints()
    async with asyncio.TaskGroup() as tasks:
        probe = tasks.create_task(pipeline.work())
        sent = len(pipeline.outbound.requests)
        await until(lambda: len(pipeline.outbound.requests) > sent)
        await pipeline.breakers.hold("billing", 60.0)
        pipeline.endpoints.answer(b"3", answered(200))
        await probe
    assert pipeline.breakers.breakers["billing"].state is BreakerState.CLOSED
    assert pipeline.holds.held == {QUEUE: pytest.approx(60_000, abs=500)}


async def test_a_probe_that_lost_its_place_before_it_was_made_is_not_made(pipeline: Pipeline) -> None:
    await fail(pipeline, "1", "2")
    pipeline.clock.jump(15.1)
    await pipeline.accept("3")
    sent = len(pipeline.outbound.requests)
    begin = pipeline.ledger.begin

    async def slowly(change: Begin) -> Begun | Refused:
        pipeline.clock.jump(51)  # longer than the attempt and its lease
        await pipeline.breakers.admit("billing", SPEC.breaker, "another", 50.0)
        return await begin(change)

    pipeline.ledger.begin = slowly  # type: ignore[method-assign]
    await pipeline.work()
    assert len(pipeline.outbound.requests) == sent
    assert pipeline.ledger.deliveries["3"].attempts_made == 0
    assert pipeline.statuses("3") == ["queued", "dispatching", "queued"]
    assert [probe.id for probe in pipeline.breakers.breakers["billing"].probes] == ["another"]


async def test_a_timeout_counts_as_a_failure(pipeline: Pipeline) -> None:
    pipeline.endpoints.open(TimedOut("answer", 20.0))
    for job_id in ("1", "2"):
        await pipeline.accept(job_id)
        await pipeline.work()
    assert pipeline.breakers.breakers["billing"].state is BreakerState.OPEN
    assert pipeline.attempts() == [(1, "timeout")]


@pytest.mark.parametrize("fault", [StoreUnavailable(), StoreRefused("NOPERM")], ids=["away", "refuses"])
async def test_while_the_breaker_cannot_be_asked_the_job_is_held_and_calls_are_few(
    pipeline: Pipeline, fault: StoreError
) -> None:
    await pipeline.accept()
    pipeline.breakers.fault = fault
    pipeline.endpoints.open()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(pipeline.work())
        await asyncio.sleep(300)
        assert pipeline.breakers.asked < 3 * 300, "a few times a second at most"
        assert pipeline.statuses() == ["queued"]
        assert pipeline.outbound.requests == []
        assert list(pipeline.store.active) == [b"1"], "given back, it would be taken again at once"
        pipeline.breakers.fault = None
        await task
    assert pipeline.statuses() == ["queued", "dispatching", "delivered"]
    assert pipeline.attempts() == [(1, "answered")]


async def test_a_job_that_waits_for_the_breaker_is_given_back_when_its_worker_ends(pipeline: Pipeline) -> None:
    await pipeline.accept()
    pipeline.breakers.fault = StoreRefused("NOPERM")
    async with asyncio.TaskGroup() as tasks:
        pipeline.slot.task = tasks.create_task(pipeline.work())
        await asyncio.sleep(5)
        pipeline.slot.break_off()
        assert await pipeline.slot.task is None
    assert list(pipeline.store.waiting) == [b"1"]
