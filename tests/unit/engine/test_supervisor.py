import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.engine.support import POLICY, Endpoints, FakeDestination, patient, turns, until
from toril.core.destination import Destination
from toril.engine.consumer import Consumer
from toril.engine.executor import Executor
from toril.engine.lock_tokens import LockTokens
from toril.engine.policy import EnginePolicy
from toril.engine.shared_services import SharedServices
from toril.engine.shared_waits import SharedWaits
from toril.engine.supervisor import Supervisor, share
from toril.testing import FakeClock, FakeLeaseStore, FakeMarkerWaits, FakeOutbound, FakePresence


@given(st.integers(0, 10_000), st.text(), st.integers(1, 64))
def test_the_shares_of_all_processes_are_the_concurrency(concurrency: int, queue: str, processes: int) -> None:
    shares = [share(concurrency, queue, process, processes) for process in range(processes)]
    assert sum(shares) == concurrency
    assert max(shares) - min(shares) <= 1


def test_a_single_process_has_the_whole_concurrency() -> None:
    assert share(7, "orders", 0, 1) == 7


def test_queues_with_one_slot_spread_over_the_processes() -> None:
    holders = [
        next(process for process in range(4) if share(1, f"queue-{number}", process, 4)) for number in range(400)
    ]
    assert all(holders.count(process) > 50 for process in range(4))


class SupervisorBench:
    """A supervisor, and the store of each queue."""

    def __init__(self, clock: FakeClock, tasks: asyncio.TaskGroup, policy: EnginePolicy) -> None:
        self._clock = clock
        self.waits = FakeMarkerWaits()
        self.presence = FakePresence()
        self.endpoints = Endpoints()
        self.outbound = FakeOutbound(self.endpoints)
        self.stores: dict[str, FakeLeaseStore] = {}
        self.made: list[Consumer] = []
        self._shared = SharedServices(
            tasks=tasks,
            waits=SharedWaits(self.waits),
            presence=self.presence,
            now=clock,
            tokens=LockTokens([], "instance"),
        )
        self.supervisor = Supervisor(self._make, policy, self._shared)

    def store(self, queue: str) -> FakeLeaseStore:
        if queue not in self.stores:
            self.stores[queue] = FakeLeaseStore(queue, now=self._clock, mark=self.waits.mark)
        return self.stores[queue]

    def _make(self, destination: Destination, slots: int) -> Consumer:
        store = self.store(destination.queue)
        executor = Executor(destination, store, self.outbound, patient(60.0), lambda: 0.5)
        self.made.append(Consumer(destination, slots, store, executor, self._shared))
        return self.made[-1]


@asynccontextmanager
async def supervisor_bench(clock: FakeClock, policy: EnginePolicy = POLICY) -> AsyncIterator[SupervisorBench]:
    failure: Exception | None = None
    async with asyncio.TaskGroup() as tasks:
        made = SupervisorBench(clock, tasks, policy)
        runner = tasks.create_task(made.supervisor.run())
        try:
            yield made
        except Exception as exc:
            failure = exc  # raised behind the group, which would wrap it
        for store in made.stores.values():
            store.come_back()
            store.let_answers_go()
        made.endpoints.open()
        made.supervisor.stop_leasing()
        for consumer in made.made:
            await consumer.abandon()
        runner.cancel()
    if failure is not None:
        raise failure


async def test_a_started_destination_is_worked_on(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        made.endpoints.open()
        made.store("orders").add("1")
        made.supervisor.start(FakeDestination("orders"))
        await until(lambda: made.store("orders").completed)
        assert made.supervisor.queues() == ["orders"]


async def test_a_process_without_a_share_works_on_nothing(clock: FakeClock) -> None:
    idle = next(process for process in range(2) if share(1, "orders", process, 2) == 0)
    async with supervisor_bench(clock, msgspec.structs.replace(POLICY, process=idle, processes=2)) as made:
        made.supervisor.start(FakeDestination("orders"))
        assert made.supervisor.queues() == []


async def test_a_replaced_consumers_job_ends_where_it_began_and_holds_up_nothing(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        store = made.store("orders")
        store.add("1")
        made.supervisor.start(FakeDestination("orders", url="http://old/"))
        await until(lambda: made.outbound.in_flight == 1)
        store.add("2")
        made.supervisor.start(FakeDestination("orders", url="http://new/"))
        await until(lambda: made.outbound.in_flight == 2)
        assert [pool.url for pool in made.outbound.pools] == ["http://old/", "http://new/"]
        made.endpoints.answer(b"1")
        await until(lambda: store.completed.keys() == {b"1"})
        assert made.outbound.pools[0].closed
        assert not made.outbound.pools[1].closed
        assert len(made.supervisor.consumers()) == 1


async def test_a_stopped_queue_is_forgotten_and_its_job_ends(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        store = made.store("orders")
        store.add("1")
        made.supervisor.start(FakeDestination("orders"))
        await until(lambda: made.outbound.in_flight == 1)
        made.supervisor.stop("orders")
        assert made.waits.forgotten == ["orders"]
        assert made.presence.shown == set()
        assert made.supervisor.queues() == []
        store.add("2")
        made.endpoints.answer(b"1")
        await until(lambda: store.completed)
        await turns()
        assert list(store.waiting) == [b"2"]
        assert made.supervisor.consumers() == []


async def test_stopping_a_queue_that_does_not_run_does_nothing(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        made.supervisor.stop("orders")
        assert made.waits.forgotten == []


async def test_draining_lets_jobs_end(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        store = made.store("orders")
        for number in range(3):
            store.add(str(number))
        made.supervisor.start(FakeDestination("orders"))
        await until(lambda: made.outbound.in_flight == 1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(made.supervisor.drain())
            await asyncio.sleep(1)
            made.endpoints.open()
        assert store.completed.keys() == {b"0"}
        assert list(store.waiting) == [b"1", b"2"]
        assert store.released == []


async def test_draining_gives_back_jobs_that_outlast_the_grace_period(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        store = made.store("orders")
        store.add("1")
        store.add("2")
        made.supervisor.start(FakeDestination("orders", concurrency=2))
        await until(lambda: made.outbound.in_flight == 2)
        began = clock()
        await made.supervisor.drain()
        assert clock() - began == pytest.approx(POLICY.grace_s, abs=0.1)
        assert sorted(store.waiting) == [b"1", b"2"]
        assert all(b"atm" not in job for job in store.jobs.values())
        assert store.active == {}


async def test_draining_ends_even_where_the_store_is_away(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        store = made.store("orders")
        store.add("1")
        made.supervisor.start(FakeDestination("orders"))
        await until(lambda: made.outbound.in_flight == 1)
        store.go_away()
        began = clock()
        await made.supervisor.drain()
        assert clock() - began < POLICY.grace_s + 6


async def test_nothing_is_started_while_stopping(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        made.supervisor.stop_leasing()
        made.supervisor.start(FakeDestination("orders"))
        assert made.supervisor.queues() == []


async def test_a_queue_that_redis_answers_for_is_not_sluggish(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        made.supervisor.start(FakeDestination("orders"))
        await asyncio.sleep(100)
        assert made.supervisor.sluggish() == []


async def test_a_queue_that_has_heard_nothing_for_three_polls_is_sluggish(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        made.supervisor.start(FakeDestination("orders"))
        await turns()
        made.store("orders").go_away()
        await asyncio.sleep(2 * POLICY.poll_interval_s)
        assert made.supervisor.sluggish() == []
        await asyncio.sleep(2 * POLICY.poll_interval_s)
        assert made.supervisor.sluggish() == ["orders"]
        made.store("orders").come_back()
        await until(lambda: made.supervisor.sluggish() == [])


async def test_a_queue_whose_slots_are_all_busy_is_not_sluggish(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        made.store("orders").add("1")
        made.supervisor.start(FakeDestination("orders", timeout_s=1000.0))
        await asyncio.sleep(10 * POLICY.poll_interval_s)
        assert made.outbound.in_flight == 1
        assert made.supervisor.sluggish() == []


async def test_long_jobs_keep_their_locks(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        store = made.store("orders")
        store.add("1")
        made.supervisor.start(FakeDestination("orders", timeout_s=1000.0))
        await asyncio.sleep(10 * POLICY.lock_s)
        made.endpoints.open()
        await until(lambda: store.completed)


async def test_a_configured_destination_is_neither_replaced_nor_stopped_nor_paused(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        kept = FakeDestination(concurrency=2)
        made.supervisor.start_configured(kept)
        (consumer,) = made.made
        made.supervisor.start(FakeDestination(concurrency=5))
        made.supervisor.pause(FakeDestination(concurrency=5))
        made.supervisor.stop("orders")
        assert made.made == [consumer]
        assert not consumer.stopped
        assert made.supervisor.queues() == ["orders"]


async def test_a_configured_destination_can_be_started_anew(clock: FakeClock) -> None:
    async with supervisor_bench(clock) as made:
        made.supervisor.start_configured(FakeDestination(concurrency=2))
        made.supervisor.start_configured(FakeDestination(concurrency=3))
        first, second = made.made
        assert (first.stopped, second.stopped) == (True, False)
