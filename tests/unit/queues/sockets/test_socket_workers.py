import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.unit.engine.support import POLICY, Endpoints, FakeDestination, patient, turns, until
from toril.core.destination import Destination
from toril.engine.consumer import Consumer
from toril.engine.executor import Executor
from toril.engine.lock_tokens import LockTokens
from toril.engine.ports import Outbound
from toril.engine.shared_services import SharedServices
from toril.engine.shared_waits import SharedWaits
from toril.engine.supervisor import Supervisor
from toril.queues.sockets.socket_workers import SocketConsumers
from toril.testing import FakeClock, FakeLeaseStore, FakeMarkerWaits, FakeOutbound, FakePool, FakePresence


class WorkerConnection:
    """A worker on a socket: it answers when the test says so."""

    def __init__(self) -> None:
        self.worker = Endpoints()
        self._outbound = FakeOutbound(self.worker)
        self.pool: FakePool = self._outbound.pool("")

    @property
    def got(self) -> list[bytes]:
        """The ids of the jobs that it was sent."""
        return [request.body for request in self._outbound.requests]

    @property
    def in_flight(self) -> int:
        return self._outbound.in_flight


class SocketBench:
    """SocketConsumers, and the registered workers of a process; `store(queue)` has a queue's jobs."""

    def __init__(self, clock: FakeClock, tasks: asyncio.TaskGroup) -> None:
        self._clock = clock
        self.waits = FakeMarkerWaits()
        self.presence = FakePresence()
        self.registered = WorkerConnection()
        self.made: list[Consumer] = []
        self.lines: list[WorkerConnection] = [self.registered]
        self._stores: dict[str, FakeLeaseStore] = {}
        self._shared = SharedServices(
            tasks=tasks,
            waits=SharedWaits(self.waits),
            presence=self.presence,
            now=clock,
            tokens=LockTokens([], "instance"),
        )
        self.supervisor = Supervisor(self._make_registered, POLICY, self._shared)
        self.socket_consumers = SocketConsumers(self._make, self.supervisor)

    def store(self, queue: str = "orders") -> FakeLeaseStore:
        if queue not in self._stores:
            self._stores[queue] = FakeLeaseStore(queue, now=self._clock, mark=self.waits.mark)
        return self._stores[queue]

    def line(self) -> WorkerConnection:
        self.lines.append(WorkerConnection())
        return self.lines[-1]

    def end(self) -> None:
        for store in self._stores.values():
            store.let_answers_go()
        for line in self.lines:
            line.worker.open()
        self.supervisor.stop_leasing()

    def _make_registered(self, destination: Destination, slots: int) -> Consumer:
        return self._make(destination, slots, self.registered._outbound)

    def _make(self, destination: Destination, slots: int, outbound: Outbound) -> Consumer:
        store = self.store(destination.queue)
        executor = Executor(destination, store, outbound, patient(60.0), lambda: 0.5)
        self.made.append(Consumer(destination, slots, store, executor, self._shared))
        return self.made[-1]


@asynccontextmanager
async def socket_bench(clock: FakeClock) -> AsyncIterator[SocketBench]:
    failure: Exception | None = None
    async with asyncio.TaskGroup() as tasks:
        made = SocketBench(clock, tasks)
        try:
            yield made
        except Exception as exc:
            failure = exc  # raised behind the group, which would wrap it
        made.end()
        for consumer in made.made:
            await consumer.abandon()
    if failure is not None:
        raise failure


async def test_joining_looks_for_jobs_that_wait_already(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        made.store().add("1")
        made.waits.watch("orders", lambda at_s: None)  # another worker gets the marker
        await turns()
        assert made.waits.markers == {}
        line = made.line()
        made.socket_consumers.start(FakeDestination(), line.pool)
        await until(lambda: line.got == [b"1"])
        line.worker.answer(b"1")
        await until(lambda: made.store().completed.keys() == {b"1"})


async def test_a_socket_worker_is_woken_by_jobs_that_come_later(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        line = made.line()
        made.socket_consumers.start(FakeDestination(), line.pool)
        await turns()
        made.store().add("1")
        await until(lambda: line.got == [b"1"])


async def test_a_socket_worker_has_all_of_its_concurrency_and_no_more(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        for number in range(5):
            made.store().add(str(number))
        line = made.line()
        made.socket_consumers.start(FakeDestination(concurrency=3), line.pool)
        await until(lambda: line.in_flight == 3)
        await turns()
        assert len(line.got) == 3


async def test_each_worker_of_a_queue_is_sent_its_own_jobs(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        one, other = made.line(), made.line()
        made.supervisor.start(FakeDestination())
        made.socket_consumers.start(FakeDestination(), one.pool)
        made.socket_consumers.start(FakeDestination(), other.pool)
        for number in range(3):
            made.store().add(str(number))
        await until(lambda: [line.in_flight for line in (made.registered, one, other)] == [1, 1, 1])
        assert sorted(made.registered.got + one.got + other.got) == [b"0", b"1", b"2"]
        assert made.supervisor.queues() == ["orders"]
        assert len(made.supervisor.consumers()) == 3


async def test_leaving_gives_jobs_back_without_spending_an_attempt(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        store, line = made.store(), made.line()
        store.add("1")
        store.add("2")
        socket_consumer = made.socket_consumers.start(FakeDestination(concurrency=2), line.pool)
        await until(lambda: line.in_flight == 2)
        await socket_consumer.end()
        assert sorted(store.waiting) == sorted(store.released) == [b"1", b"2"]
        assert store.active == {}
        assert all(b"atm" not in job for job in store.jobs.values())
        assert line.in_flight == 0
        assert made.supervisor.consumers() == []


async def test_a_job_that_is_being_leased_while_its_worker_leaves_is_given_back(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        store, line = made.store(), made.line()
        store.add("1")
        store.hold_answers()
        socket_consumer = made.socket_consumers.start(FakeDestination(), line.pool)
        await until(lambda: store.active)
        async with asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(socket_consumer.end())
            await turns()
            assert not leaving.done()
            assert len(made.supervisor.consumers()) == 1
            store.let_answers_go()
        assert list(store.waiting) == [b"1"]
        assert b"atm" not in store.jobs[b"1"]
        assert line.got == []


async def test_a_worker_that_has_left_is_sent_nothing_more(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        line = made.line()
        socket_consumer = made.socket_consumers.start(FakeDestination(), line.pool)
        await turns()
        await socket_consumer.end()
        made.store().add("1")
        await turns()
        assert line.got == []
        assert list(made.store().waiting) == [b"1"]


async def test_a_job_that_a_worker_gives_back_goes_to_the_next_worker(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        one, other = made.line(), made.line()
        made.store().add("1")
        socket_consumer = made.socket_consumers.start(FakeDestination(), one.pool)
        await until(lambda: one.in_flight == 1)
        made.socket_consumers.start(FakeDestination(), other.pool)
        await turns()
        await socket_consumer.end()
        await until(lambda: other.got == [b"1"])


async def test_the_last_worker_to_leave_makes_the_queue_forgotten(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        line = made.line()
        made.store().add("1")
        socket_consumer = made.socket_consumers.start(FakeDestination(), line.pool)
        await until(lambda: made.presence.shown == {"orders"})
        await socket_consumer.end()
        assert made.waits.forgotten == ["orders"]
        assert made.presence.shown == set()


async def test_a_queue_with_another_socket_worker_is_not_forgotten(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        first = made.socket_consumers.start(FakeDestination(), made.line().pool)
        line = made.line()
        second = made.socket_consumers.start(FakeDestination(), line.pool)
        made.socket_consumers.start(FakeDestination("mails"), made.line().pool)
        await turns()
        await first.end()
        assert made.waits.forgotten == []
        made.store().add("1")
        await until(lambda: line.got == [b"1"])
        await second.end()
        assert made.waits.forgotten == ["orders"]


async def test_a_queue_with_a_registered_worker_is_not_forgotten(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        made.supervisor.start(FakeDestination())
        socket_consumer = made.socket_consumers.start(FakeDestination(), made.line().pool)
        await turns()
        await socket_consumer.end()
        assert made.waits.forgotten == []
        made.store().add("1")
        await until(lambda: made.registered.got == [b"1"])


async def test_a_queue_is_not_forgotten_with_its_registered_worker_while_a_socket_is_there(
    clock: FakeClock,
) -> None:
    async with socket_bench(clock) as made:
        made.supervisor.start(FakeDestination())
        line = made.line()
        socket_consumer = made.socket_consumers.start(FakeDestination(), line.pool)
        await turns()
        made.supervisor.stop("orders")
        assert made.waits.forgotten == []
        made.store().add("1")
        await until(lambda: line.got == [b"1"])
        await socket_consumer.end()
        assert made.waits.forgotten == ["orders"]


async def test_a_stopped_worker_finishes_what_it_has_and_gets_no_more(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        store, line = made.store(), made.line()
        store.add("1")
        store.add("2")
        socket_consumer = made.socket_consumers.start(FakeDestination(), line.pool)
        await until(lambda: line.in_flight == 1)
        socket_consumer.stop()
        line.worker.open()
        await until(lambda: store.completed)
        await turns()
        assert line.got == [b"1"]
        assert list(store.waiting) == [b"2"]
        assert store.released == []


async def test_waiting_for_done_lasts_until_the_last_job_is_settled(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        store, line = made.store(), made.line()
        store.add("1")
        store.add("2")
        socket_consumer = made.socket_consumers.start(FakeDestination(concurrency=2), line.pool)
        await until(lambda: line.in_flight == 2)
        socket_consumer.stop()
        async with asyncio.TaskGroup() as tasks:
            done = tasks.create_task(socket_consumer.drained())
            line.worker.answer(b"2")
            await until(lambda: store.completed.keys() == {b"2"})
            await turns()
            assert not done.done()
            store.hold_answers()
            line.worker.answer(b"1")
            await until(lambda: store.completed.keys() == {b"1", b"2"})
            await turns()
            assert not done.done()
            store.let_answers_go()


async def test_done_does_not_wait_where_nothing_is_in_flight(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        socket_consumer = made.socket_consumers.start(FakeDestination(), made.line().pool)
        await turns()
        async with asyncio.timeout(1):
            await socket_consumer.drained()


async def test_stopping_the_process_stops_socket_workers_and_lets_their_jobs_end(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        store, line = made.store(), made.line()
        store.add("1")
        store.add("2")
        made.socket_consumers.start(FakeDestination(), line.pool)
        await until(lambda: line.in_flight == 1)
        async with asyncio.TaskGroup() as tasks:
            draining = tasks.create_task(made.supervisor.drain())
            await turns()
            assert not draining.done()
            line.worker.open()
        assert store.completed.keys() == {b"1"}
        assert list(store.waiting) == [b"2"]


async def test_a_worker_that_joins_during_a_shutdown_gets_nothing(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        made.store().add("1")
        made.supervisor.stop_leasing()
        line = made.line()
        socket_consumer = made.socket_consumers.start(FakeDestination(), line.pool)
        await turns()
        assert line.got == []
        await socket_consumer.drained()
        await socket_consumer.end()
        assert made.store().calls == []


async def test_the_connection_pool_is_closed_when_its_worker_leaves(clock: FakeClock) -> None:
    async with socket_bench(clock) as made:
        line = made.line()
        made.store().add("1")
        socket_consumer = made.socket_consumers.start(FakeDestination(), line.pool)
        await until(lambda: line.in_flight == 1)
        assert not line.pool.closed
        await socket_consumer.end()
        assert line.pool.closed
