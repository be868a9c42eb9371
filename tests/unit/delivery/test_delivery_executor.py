"""The delivery executor: what is in the ledger before each step, and how each job is settled."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.unit.delivery.pipeline import QUEUE, SPEC, Pipeline
from tests.unit.engine.support import until
from toril.core.errors import LedgerUnavailable, RowRefused, StoreError, StoreRefused
from toril.core.metrics import JOB_SECONDS
from toril.delivery.rules.changes import Cancel, Lose, Written
from toril.delivery.rules.delivery import Inline, new_job_id
from toril.delivery.rules.lifecycle import Status, faults
from toril.delivery.rules.target import BreakerPolicy, TargetSpec
from toril.testing import (
    answered,
)


async def test_an_attempt_is_in_the_ledger_before_it_is_made_and_ended_before_its_job_moves(pipeline: Pipeline) -> None:
    await pipeline.accept()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(pipeline.work())
        await until(lambda: pipeline.outbound.requests)
        assert pipeline.statuses() == ["queued", "dispatching"]
        pipeline.endpoints.answer(b"1", answered(200, b"done", headers=[(b"X", b"y")]))
        await task
    assert pipeline.statuses() == ["queued", "dispatching", "delivered"]
    assert pipeline.attempts() == [(1, "answered")]
    response = pipeline.ledger.responses["1"]
    assert (response.status, response.headers, response.content) == (200, (("X", "y"),), Inline(b"done"))
    assert not pipeline.store.active


async def test_a_failed_attempt_is_tried_again_later_by_the_target_s_policy(pipeline: Pipeline) -> None:
    await pipeline.accept()
    pipeline.endpoints.open(answered(503, reason="Busy"))
    await pipeline.work()
    delivery = pipeline.ledger.deliveries["1"]
    assert (delivery.status, delivery.attempts_made, delivery.last_error) == (Status.RETRYING, 1, "HTTP 503 Busy")
    assert delivery.next_attempt_at_s == pytest.approx(pipeline.clock() + 10.0)
    assert pipeline.store.delayed == {b"1": pytest.approx(pipeline.clock() + 10.0, abs=0.01)}


async def test_the_attempt_budget_is_the_ledger_s_and_a_dead_letter_leaves_the_queue(pipeline: Pipeline) -> None:
    await pipeline.accept()
    pipeline.target.renew(
        TargetSpec(name="billing", url=SPEC.url, retry=SPEC.retry, breaker=BreakerPolicy(failures=100))
    )
    pipeline.endpoints.open(answered(500))
    for _ in range(3):
        await pipeline.work()
        pipeline.clock.jump(100)
    assert pipeline.statuses() == ["queued", *["dispatching", "retrying"] * 2, "dispatching", "dead_lettered"]
    assert pipeline.ledger.deliveries["1"].reason == "attempts"
    assert [number for number, _ in pipeline.attempts()] == [1, 2, 3]
    assert (await pipeline.store.take(b"t")) is not None
    assert list(pipeline.store.failed) == [b"1"]


async def test_no_attempt_begins_after_the_deadline(pipeline: Pipeline) -> None:
    await pipeline.accept(deadline_s=pipeline.clock() + 5)
    lease = await pipeline.take()
    pipeline.clock.jump(6)
    await pipeline.work(lease)
    assert pipeline.outbound.requests == []
    assert pipeline.ledger.deliveries["1"].reason == "deadline"
    assert not pipeline.store.active


@pytest.mark.parametrize("known", [True, False])
async def test_a_job_without_an_open_delivery_leaves_the_queue_without_an_attempt(
    pipeline: Pipeline, known: bool
) -> None:
    if known:
        await pipeline.accept()
        await pipeline.ledger.cancel(Cancel(job_id="1", by="caller", at_s=pipeline.clock()))
    else:
        pipeline.store.add("1")
    await pipeline.work()
    assert pipeline.outbound.requests == []
    assert not pipeline.store.active
    assert not pipeline.store.waiting
    assert pipeline.meter.values(JOB_SECONDS) == []


async def test_the_end_of_a_delivery_is_measured_once(pipeline: Pipeline) -> None:
    pipeline.endpoints.open(answered(200))
    await pipeline.accept()
    await pipeline.work()
    pipeline.store.add("1")  # as by a recoverer that saw the row right before its end
    await pipeline.work()
    assert pipeline.statuses() == ["queued", "dispatching", "delivered"]
    assert not pipeline.store.active
    assert [labels for labels, _ in pipeline.meter.values(JOB_SECONDS)] == [(QUEUE, "complete")]


JOB_ID = new_job_id(1_700_000_000.0, bytes(10))


@pytest.mark.parametrize("data", [b'{"target":"billing"}', b'{"target":"billing","ledger":"fake"}', b"{}", b"["])
async def test_a_job_whose_delivery_has_no_row_is_given_back_and_not_removed(pipeline: Pipeline, data: bytes) -> None:
    # Its row may be in the ledger of another instance, or come back with a backup.
    await pipeline.fleet.look()
    pipeline.store.add(JOB_ID, data=data)
    await pipeline.work()
    assert pipeline.outbound.requests == []
    assert list(pipeline.store.delayed) == [JOB_ID.encode()]
    assert (pipeline.store.completed, pipeline.store.failed) == ({}, {})


async def test_a_job_that_names_another_ledger_is_given_back_before_ours_is_asked(pipeline: Pipeline) -> None:
    await pipeline.fleet.look()
    pipeline.store.add(JOB_ID, data=b'{"target":"billing","ledger":"other"}')
    pipeline.ledger.go_away()
    await pipeline.work()
    assert list(pipeline.store.delayed) == [JOB_ID.encode()]
    assert pipeline.store.jobs[JOB_ID.encode()].get(b"atm", b"0") == b"0"


async def test_a_job_that_names_no_ledger_is_delivered(pipeline: Pipeline) -> None:
    await pipeline.fleet.look()
    await pipeline.accept(JOB_ID)
    pipeline.store.jobs[JOB_ID.encode()][b"data"] = b'{"target":"billing"}'
    pipeline.endpoints.open()
    await pipeline.work()
    assert pipeline.statuses(JOB_ID) == ["queued", "dispatching", "delivered"]


async def test_a_row_that_is_gone_when_its_attempt_ends_does_not_remove_the_job(pipeline: Pipeline) -> None:
    await pipeline.accept(JOB_ID)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(pipeline.work())
        await until(lambda: pipeline.outbound.requests)
        pipeline.ledger.deliveries.clear()
        pipeline.endpoints.answer(JOB_ID.encode(), answered(200))
        await task
    assert list(pipeline.store.waiting) == [JOB_ID.encode()]


AWAY = pytest.mark.parametrize("fault", [LedgerUnavailable(), StoreRefused()], ids=["away", "refuses"])


@AWAY
async def test_while_the_ledger_is_away_a_job_is_held_and_then_attempted_once(
    pipeline: Pipeline, fault: StoreError
) -> None:
    await pipeline.accept()
    lease = await pipeline.take()
    pipeline.ledger.go_away(fault)
    pipeline.endpoints.open()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(pipeline.work(lease))
        await asyncio.sleep(60)
        assert pipeline.outbound.requests == []
        assert list(pipeline.store.active) == [b"1"]
        pipeline.ledger.come_back()
        await task
    assert len(pipeline.outbound.requests) == 1
    assert pipeline.statuses() == ["queued", "dispatching", "delivered"]


@asynccontextmanager
async def waiting_for_the_ledger(pipeline: Pipeline) -> AsyncIterator[None]:
    """An attempt waits for the ledger during the block, and goes on after it."""
    await pipeline.accept()
    pipeline.endpoints.open()
    pipeline.ledger.go_away()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pipeline.work())
        await asyncio.sleep(5)
        yield
        pipeline.ledger.come_back()


async def test_an_attempt_that_waited_for_the_ledger_is_not_made_when_its_target_was_paused_meanwhile(
    pipeline: Pipeline,
) -> None:
    async with waiting_for_the_ledger(pipeline):
        pipeline.holds.pauses.add(QUEUE)
    assert pipeline.outbound.requests == []
    assert pipeline.statuses() == ["queued", "dispatching", "queued"]
    assert pipeline.ledger.transitions["1"][-1].reason == "its target is paused"
    assert pipeline.ledger.deliveries["1"].attempts_made == 0
    pipeline.holds.pauses.clear()
    pipeline.clock.jump(0.1)
    await pipeline.work()
    assert pipeline.statuses()[-2:] == ["dispatching", "delivered"]


async def test_an_attempt_that_waited_for_the_ledger_is_not_made_when_its_job_is_another_worker_s_by_then(
    pipeline: Pipeline,
) -> None:
    async with waiting_for_the_ledger(pipeline):
        pipeline.store.steal(b"1")
    assert pipeline.outbound.requests == []
    assert list(pipeline.store.active) == [b"1"]


async def test_an_attempt_that_did_not_wait_does_not_ask_whether_its_target_is_paused(pipeline: Pipeline) -> None:
    await pipeline.accept()
    pipeline.endpoints.open()
    lease = await pipeline.take()
    pipeline.holds.pauses.add(QUEUE)
    await pipeline.work(lease)
    assert pipeline.statuses()[-1] == "delivered"


@AWAY
async def test_an_outcome_is_kept_until_the_ledger_is_back_and_judged_once(
    pipeline: Pipeline, fault: StoreError
) -> None:
    await pipeline.accept()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(pipeline.work())
        await until(lambda: pipeline.outbound.requests)
        pipeline.ledger.go_away(fault)
        pipeline.endpoints.answer(b"1", answered(503))
        await asyncio.sleep(60)
        assert list(pipeline.store.active) == [b"1"], "its job does not move before the ledger knows"
        pipeline.ledger.come_back()
        await task
    assert len(pipeline.outbound.requests) == 1
    assert pipeline.statuses() == ["queued", "dispatching", "retrying"]
    assert pipeline.attempts() == [(1, "answered")]


async def test_an_answer_that_the_ledger_refuses_is_recorded_without_its_text(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pipeline.accept()
    pipeline.endpoints.open(answered(503, b"poison"))
    end = pipeline.ledger.end

    async def choosy(change: Any) -> Any:
        if change.response is not None:
            raise RowRefused
        return await end(change)

    monkeypatch.setattr(pipeline.ledger, "end", choosy)
    await pipeline.work()
    assert len(pipeline.outbound.requests) == 1
    assert pipeline.statuses() == ["queued", "dispatching", "retrying"]
    assert pipeline.ledger.attempts["1"][0].status_code == 503


@pytest.mark.parametrize("moment", ["before", "attempt", "after"])
async def test_a_worker_that_ends_gives_its_job_back_without_spending_an_attempt(
    pipeline: Pipeline, moment: str
) -> None:
    await pipeline.accept()
    lease = await pipeline.take()
    if moment == "before":
        pipeline.ledger.go_away()
    async with asyncio.TaskGroup() as tasks:
        pipeline.slot.task = tasks.create_task(pipeline.work(lease))
        await asyncio.sleep(5)
        if moment == "after":
            pipeline.ledger.go_away()
            pipeline.endpoints.answer(b"1", answered(200))
            await asyncio.sleep(5)
        pipeline.slot.break_off()
        assert await pipeline.slot.task is None
    assert list(pipeline.store.waiting) == [b"1"]
    assert pipeline.ledger.deliveries["1"].attempts_made == 0
    pipeline.ledger.come_back()
    pipeline.endpoints.open()
    await pipeline.work()
    assert pipeline.ledger.deliveries["1"].status is Status.DELIVERED
    expected = {"before": [(1, "answered")], "attempt": [(1, "cancelled"), (2, "answered")]}
    assert pipeline.attempts() == expected.get(moment, [(1, "lost"), (2, "answered")])
    assert faults(pipeline.ledger.transitions["1"]) == []


async def test_a_lost_lease_writes_nothing(pipeline: Pipeline) -> None:
    await pipeline.accept()
    async with asyncio.TaskGroup() as tasks:
        lease = await pipeline.take()
        pipeline.slot.task = tasks.create_task(pipeline.work(lease))
        await until(lambda: pipeline.outbound.requests)
        lease.lost = True
        pipeline.slot.break_off()
        assert await pipeline.slot.task is None
    assert pipeline.statuses() == ["queued", "dispatching"]
    assert list(pipeline.store.active) == [b"1"]


async def test_a_worker_that_takes_over_from_a_dead_one_records_its_attempt_as_lost(pipeline: Pipeline) -> None:
    await pipeline.accept()
    dead = await pipeline.take()
    await pipeline.executor._journal.begin(dead, "dead")
    pipeline.endpoints.open()
    other = pipeline.worker()
    await other.execute(pipeline.slot, dead, lambda: False)
    assert pipeline.attempts() == [(1, "lost"), (2, "answered")]
    assert pipeline.statuses() == ["queued", "dispatching", "queued", "dispatching", "delivered"]


async def test_a_job_that_was_cancelled_while_it_ran_leaves_the_queue(pipeline: Pipeline) -> None:
    await pipeline.accept()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(pipeline.work())
        await until(lambda: pipeline.outbound.requests)
        await pipeline.ledger.cancel(Cancel(job_id="1", by="caller", at_s=pipeline.clock()))
        pipeline.endpoints.answer(b"1", answered(503))
        await task
    assert pipeline.statuses() == ["queued", "dispatching", "cancelled"]
    assert not pipeline.store.active
    assert not pipeline.store.delayed


async def test_an_attempt_that_was_recorded_as_lost_during_an_outage_is_not_made_again(pipeline: Pipeline) -> None:
    await pipeline.accept()
    async with asyncio.TaskGroup() as tasks:
        lease = await pipeline.take()
        task = tasks.create_task(pipeline.work(lease))
        await until(lambda: pipeline.outbound.requests)
        pipeline.ledger.go_away()
        pipeline.endpoints.answer(b"1", answered(200))
        for _ in range(6):
            await asyncio.sleep(10)
            await pipeline.store.extend([lease])
        pipeline.ledger.come_back()
        lose = Lose(job_id="1", number=1, by="recoverer", at_s=pipeline.clock())
        assert isinstance(await pipeline.ledger.lose(lose), Written)
        await task
    assert pipeline.statuses() == ["queued", "dispatching", "queued", "dispatching", "delivered"]
    assert pipeline.attempts() == [(1, "answered")]
    assert not pipeline.store.active
    assert not pipeline.store.waiting


async def test_the_attempt_of_another_worker_is_not_overwritten(pipeline: Pipeline) -> None:
    await pipeline.accept()
    async with asyncio.TaskGroup() as tasks:
        lease = await pipeline.take()
        task = tasks.create_task(pipeline.work(lease))
        await until(lambda: pipeline.outbound.requests)
        await pipeline.worker()._journal.begin(lease, "another")
        pipeline.endpoints.answer(b"1", answered(200))
        await task
    assert pipeline.statuses() == ["queued", "dispatching", "queued", "dispatching"]
    assert pipeline.attempts() == [(1, "lost")]


async def test_a_known_answer_outlives_a_lease_that_is_lost_while_the_ledger_is_away(pipeline: Pipeline) -> None:
    # Redis was flushed meanwhile, so the lock is gone; the recoverer would put the job back and have it sent again.
    await pipeline.accept()
    async with asyncio.TaskGroup() as tasks:
        lease = await pipeline.take()
        pipeline.slot.task = tasks.create_task(pipeline.work(lease))
        await until(lambda: pipeline.outbound.requests)
        pipeline.ledger.go_away()
        pipeline.endpoints.answer(b"1", answered(200))
        await asyncio.sleep(5)
        lease.lost = True
        pipeline.slot.break_off()
        await asyncio.sleep(5)
        pipeline.ledger.come_back()
        assert await pipeline.slot.task is None
    assert pipeline.statuses() == ["queued", "dispatching", "delivered"]
    assert list(pipeline.store.active) == [b"1"], "to the queue nothing is written"


async def test_a_worker_that_ends_does_not_wait_for_the_ledger_with_a_lost_lease(pipeline: Pipeline) -> None:
    await pipeline.accept()
    async with asyncio.TaskGroup() as tasks:
        lease = await pipeline.take()
        pipeline.slot.task = tasks.create_task(pipeline.work(lease))
        await until(lambda: pipeline.outbound.requests)
        pipeline.ledger.go_away()
        pipeline.endpoints.answer(b"1", answered(200))
        await asyncio.sleep(5)
        lease.lost = True
        pipeline.slot.break_off()
        await asyncio.sleep(5)
        pipeline.slot.break_off()
        assert await pipeline.slot.task is None


async def test_a_worker_that_ends_records_the_answer_that_it_knows(pipeline: Pipeline) -> None:
    await pipeline.accept()
    async with asyncio.TaskGroup() as tasks:
        pipeline.slot.task = tasks.create_task(pipeline.work())
        await until(lambda: pipeline.outbound.requests)
        pipeline.ledger.go_away()
        pipeline.endpoints.answer(b"1", answered(200))
        await asyncio.sleep(5)
        pipeline.ledger.come_back()
        pipeline.slot.break_off()
        assert await pipeline.slot.task is None
    assert pipeline.statuses() == ["queued", "dispatching", "delivered"]
    await pipeline.work()
    assert len(pipeline.outbound.requests) == 1
    assert not pipeline.store.waiting
