"""Waiting for deliveries to move: one query of the ledger for all waiters, none without waiters."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from toril.delivery.rules.changes import Cancel
from toril.delivery.rules.delivery import Delivery, Envelope, NewDelivery
from toril.delivery.transition_waiter import TransitionWaiter
from toril.testing import FakeClock, FakeLedger


class Counting(FakeLedger):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def some(self, job_ids: Sequence[str]) -> dict[str, Delivery]:
        self.asked += 1
        return await super().some(job_ids)


async def ledger_with(*job_ids: str) -> Counting:
    ledger = Counting()
    for job_id in job_ids:
        new = NewDelivery(job_id=job_id, target="t", envelope=Envelope(), at_s=0.0, max_attempts=3, by="g")
        await ledger.accept([new])
    return ledger


async def cancel(ledger: FakeLedger, job_id: str) -> None:
    await ledger.cancel(Cancel(job_id=job_id, by="x", at_s=1.0))


async def test_a_waiter_returns_when_its_delivery_is_finished() -> None:
    ledger = await ledger_with("a", "b")
    following = TransitionWaiter(ledger)
    with FakeClock().driving():
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(following.run())
            waiting = [tasks.create_task(following.wait(job_id, None, 60)) for job_id in ("a", "b")]
            await asyncio.sleep(5)
            assert not any(task.done() for task in waiting)
            await cancel(ledger, "a")
            await asyncio.sleep(1)
            assert [task.done() for task in waiting] == [True, False]
            await cancel(ledger, "b")
            await waiting[1]
            running.cancel()


@pytest.mark.parametrize(("after", "at_once"), [(0, True), (1, False)])
async def test_a_waiter_after_a_transition_returns_at_the_next_one(after: int, at_once: bool) -> None:
    ledger = await ledger_with("a")
    following = TransitionWaiter(ledger)
    with FakeClock().driving():
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(following.run())
            waiting = tasks.create_task(following.wait("a", after, 60))
            await asyncio.sleep(1)
            assert waiting.done() == at_once
            await cancel(ledger, "a")
            await waiting
            running.cancel()


async def test_a_wait_ends_after_its_time_or_with_the_delivery_or_the_instance() -> None:
    ledger = await ledger_with("a")
    following = TransitionWaiter(ledger)
    clock = FakeClock()
    with clock.driving():
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(following.run())
            await following.wait("a", None, 30)
            assert clock.elapsed_s == pytest.approx(30, abs=0.1)
            await following.wait("gone", None, 30)
            assert clock.elapsed_s < 32
            waiting = tasks.create_task(following.wait("a", None, 30))
            await asyncio.sleep(1)
            following.close()
            await waiting
            await following.wait("a", None, 30)
            assert clock.elapsed_s < 40
            running.cancel()


async def test_the_ledger_is_queried_once_for_all_waiters_and_never_without_any() -> None:
    ledger = await ledger_with("a")
    following = TransitionWaiter(ledger)
    with FakeClock().driving():
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(following.run())
            await asyncio.sleep(60)
            assert ledger.asked == 0
            waiting = [tasks.create_task(following.wait("a", None, 60)) for _ in range(100)]
            await asyncio.sleep(10)
            assert 10 <= ledger.asked <= 60
            await cancel(ledger, "a")
            async with asyncio.timeout(5):
                for task in waiting:
                    await task
            asked = ledger.asked
            await asyncio.sleep(60)
            assert ledger.asked <= asked + 1
            running.cancel()


async def test_waiters_wait_on_while_the_ledger_is_away() -> None:
    ledger = await ledger_with("a")
    following = TransitionWaiter(ledger)
    ledger.go_away()
    results: list[Any] = []
    with FakeClock().driving():
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(following.run())
            waiting = tasks.create_task(following.wait("a", None, 60))
            await asyncio.sleep(5)
            results.append(waiting.done())
            ledger.come_back()
            await cancel(ledger, "a")
            await waiting
            running.cancel()
    assert results == [False]
