import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.unit.engine.support import POLICY, Desk, Endpoints, patient, turns, until
from toril.core.destinations.base import Destination
from toril.core.lock_tokens import LockTokens
from toril.core.ports.calls import Outbound
from toril.engine.consumer import Consumer, Surroundings
from toril.engine.executor import Executor
from toril.engine.seats import Seats
from toril.engine.shared_waits import SharedWaits
from toril.engine.supervisor import Supervisor
from toril.testing import FakeClock, FakeLeaseStore, FakeMarkerWaits, FakeOutbound, FakePool, FakePresence


class Line:
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


class Hall:
    """Seats, beside the registered workers of a process; `store(queue)` has a queue's jobs."""

    def __init__(self, clock: FakeClock, tasks: asyncio.TaskGroup) -> None:
        self._clock = clock
        self.waits = FakeMarkerWaits()
        self.presence = FakePresence()
        self.registered = Line()
        self.forgotten: list[str] = []
        self.made: list[Consumer] = []
        self.lines: list[Line] = [self.registered]
        self._stores: dict[str, FakeLeaseStore] = {}
        self._around = Surroundings(
            tasks=tasks,
            waits=SharedWaits(self.waits),
            presence=self.presence,
            now=clock,
            tokens=LockTokens([], "instance"),
        )
        self.supervisor = Supervisor(self._make_registered, POLICY, self.presence, self._forget)
        self.seats = Seats(self._make, self.supervisor)

    def store(self, queue: str = "orders") -> FakeLeaseStore:
        if queue not in self._stores:
            self._stores[queue] = FakeLeaseStore(queue, now=self._clock, mark=self.waits.mark)
        return self._stores[queue]

    def line(self) -> Line:
        self.lines.append(Line())
        return self.lines[-1]

    def end(self) -> None:
        for store in self._stores.values():
            store.let_answers_go()
        for line in self.lines:
            line.worker.open()
        self.supervisor.stop_leasing()

    def _forget(self, queue: str) -> None:
        # As the real one does it.
        self.forgotten.append(queue)
        self.waits.unwatch(queue)

    def _make_registered(self, destination: Destination, slots: int) -> Consumer:
        return self._make(destination, slots, self.registered._outbound)

    def _make(self, destination: Destination, slots: int, outbound: Outbound) -> Consumer:
        store = self.store(destination.queue)
        executor = Executor(destination, store, outbound, patient(60.0), lambda: 0.5)
        self.made.append(Consumer(destination, slots, store, executor, self._around))
        return self.made[-1]


@asynccontextmanager
async def hall(clock: FakeClock) -> AsyncIterator[Hall]:
    failure: Exception | None = None
    async with asyncio.TaskGroup() as tasks:
        made = Hall(clock, tasks)
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
    async with hall(clock) as made:
        made.store().add("1")
        made.waits.watch("orders", lambda at_s: None)  # somebody else gets the marker
        await turns()
        assert made.waits.markers == {}
        line = made.line()
        made.seats.join(Desk(), line.pool)
        await until(lambda: line.got == [b"1"])
        line.worker.answer(b"1")
        await until(lambda: made.store().completed.keys() == {b"1"})


async def test_a_seated_worker_is_woken_by_jobs_that_come_later(clock: FakeClock) -> None:
    async with hall(clock) as made:
        line = made.line()
        made.seats.join(Desk(), line.pool)
        await turns()
        made.store().add("1")
        await until(lambda: line.got == [b"1"])


async def test_a_seated_worker_has_all_of_its_concurrency_and_no_more(clock: FakeClock) -> None:
    async with hall(clock) as made:
        for number in range(5):
            made.store().add(str(number))
        line = made.line()
        made.seats.join(Desk(concurrency=3), line.pool)
        await until(lambda: line.in_flight == 3)
        await turns()
        assert len(line.got) == 3


async def test_each_worker_of_a_queue_is_sent_its_own_jobs(clock: FakeClock) -> None:
    async with hall(clock) as made:
        one, other = made.line(), made.line()
        made.supervisor.start(Desk())
        made.seats.join(Desk(), one.pool)
        made.seats.join(Desk(), other.pool)
        for number in range(3):
            made.store().add(str(number))
        await until(lambda: [line.in_flight for line in (made.registered, one, other)] == [1, 1, 1])
        assert sorted(made.registered.got + one.got + other.got) == [b"0", b"1", b"2"]
        assert made.supervisor.queues() == ["orders"]
        assert len(made.supervisor.consumers()) == 3


async def test_leaving_gives_jobs_back_without_spending_an_attempt(clock: FakeClock) -> None:
    async with hall(clock) as made:
        store, line = made.store(), made.line()
        store.add("1")
        store.add("2")
        seat = made.seats.join(Desk(concurrency=2), line.pool)
        await until(lambda: line.in_flight == 2)
        await seat.leave()
        assert sorted(store.waiting) == sorted(store.released) == [b"1", b"2"]
        assert store.active == {}
        assert all(b"atm" not in job for job in store.jobs.values())
        assert line.in_flight == 0
        assert made.supervisor.consumers() == []


async def test_a_job_that_is_being_leased_while_its_worker_leaves_is_given_back(clock: FakeClock) -> None:
    async with hall(clock) as made:
        store, line = made.store(), made.line()
        store.add("1")
        store.hold_answers()
        seat = made.seats.join(Desk(), line.pool)
        await until(lambda: store.active)
        async with asyncio.TaskGroup() as tasks:
            leaving = tasks.create_task(seat.leave())
            await turns()
            assert not leaving.done()
            assert len(made.supervisor.consumers()) == 1
            store.let_answers_go()
        assert list(store.waiting) == [b"1"]
        assert b"atm" not in store.jobs[b"1"]
        assert line.got == []


async def test_a_worker_that_has_left_is_sent_nothing_more(clock: FakeClock) -> None:
    async with hall(clock) as made:
        line = made.line()
        seat = made.seats.join(Desk(), line.pool)
        await turns()
        await seat.leave()
        made.store().add("1")
        await turns()
        assert line.got == []
        assert list(made.store().waiting) == [b"1"]


async def test_what_a_worker_gives_back_goes_to_the_next_one(clock: FakeClock) -> None:
    async with hall(clock) as made:
        one, other = made.line(), made.line()
        made.store().add("1")
        seat = made.seats.join(Desk(), one.pool)
        await until(lambda: one.in_flight == 1)
        made.seats.join(Desk(), other.pool)
        await turns()
        await seat.leave()
        await until(lambda: other.got == [b"1"])


async def test_the_last_worker_to_leave_makes_the_queue_forgotten(clock: FakeClock) -> None:
    async with hall(clock) as made:
        line = made.line()
        made.store().add("1")
        seat = made.seats.join(Desk(), line.pool)
        await until(lambda: made.presence.shown == {"orders"})
        await seat.leave()
        assert made.forgotten == ["orders"]
        assert made.presence.shown == set()


async def test_a_queue_with_another_seated_worker_is_not_forgotten(clock: FakeClock) -> None:
    async with hall(clock) as made:
        first = made.seats.join(Desk(), made.line().pool)
        line = made.line()
        second = made.seats.join(Desk(), line.pool)
        made.seats.join(Desk("mails"), made.line().pool)
        await turns()
        await first.leave()
        assert made.forgotten == []
        made.store().add("1")
        await until(lambda: line.got == [b"1"])
        await second.leave()
        assert made.forgotten == ["orders"]


async def test_a_queue_with_a_registered_worker_is_not_forgotten(clock: FakeClock) -> None:
    async with hall(clock) as made:
        made.supervisor.start(Desk())
        seat = made.seats.join(Desk(), made.line().pool)
        await turns()
        await seat.leave()
        assert made.forgotten == []
        made.store().add("1")
        await until(lambda: made.registered.got == [b"1"])


async def test_a_queue_whose_registered_worker_goes_is_not_forgotten_while_one_is_seated(clock: FakeClock) -> None:
    async with hall(clock) as made:
        made.supervisor.start(Desk())
        line = made.line()
        seat = made.seats.join(Desk(), line.pool)
        await turns()
        made.supervisor.stop("orders")
        assert made.forgotten == []
        made.store().add("1")
        await until(lambda: line.got == [b"1"])
        await seat.leave()
        assert made.forgotten == ["orders"]


async def test_a_stopped_worker_finishes_what_it_has_and_gets_no_more(clock: FakeClock) -> None:
    async with hall(clock) as made:
        store, line = made.store(), made.line()
        store.add("1")
        store.add("2")
        seat = made.seats.join(Desk(), line.pool)
        await until(lambda: line.in_flight == 1)
        seat.stop()
        line.worker.open()
        await until(lambda: store.completed)
        await turns()
        assert line.got == [b"1"]
        assert list(store.waiting) == [b"2"]
        assert store.released == []


async def test_done_waits_for_the_last_job_to_be_settled(clock: FakeClock) -> None:
    async with hall(clock) as made:
        store, line = made.store(), made.line()
        store.add("1")
        store.add("2")
        seat = made.seats.join(Desk(concurrency=2), line.pool)
        await until(lambda: line.in_flight == 2)
        seat.stop()
        async with asyncio.TaskGroup() as tasks:
            done = tasks.create_task(seat.done())
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
    async with hall(clock) as made:
        seat = made.seats.join(Desk(), made.line().pool)
        await turns()
        async with asyncio.timeout(1):
            await seat.done()


async def test_stopping_the_process_stops_seated_workers_and_lets_their_jobs_end(clock: FakeClock) -> None:
    async with hall(clock) as made:
        store, line = made.store(), made.line()
        store.add("1")
        store.add("2")
        made.seats.join(Desk(), line.pool)
        await until(lambda: line.in_flight == 1)
        async with asyncio.TaskGroup() as tasks:
            draining = tasks.create_task(made.supervisor.drain())
            await turns()
            assert not draining.done()
            line.worker.open()
        assert store.completed.keys() == {b"1"}
        assert list(store.waiting) == [b"2"]


async def test_who_joins_while_the_process_stops_gets_nothing(clock: FakeClock) -> None:
    async with hall(clock) as made:
        made.store().add("1")
        made.supervisor.stop_leasing()
        line = made.line()
        seat = made.seats.join(Desk(), line.pool)
        await turns()
        assert line.got == []
        await seat.done()
        await seat.leave()
        assert made.store().calls == []


async def test_a_line_is_let_go_when_its_worker_leaves(clock: FakeClock) -> None:
    async with hall(clock) as made:
        line = made.line()
        made.store().add("1")
        seat = made.seats.join(Desk(), line.pool)
        await until(lambda: line.in_flight == 1)
        assert not line.pool.closed
        await seat.leave()
        assert line.pool.closed
