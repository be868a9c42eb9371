import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.unit.engine.support import LOCK_S, Desk, Endpoints, patient, turns
from toril.core.lease import Lease, NoJob
from toril.core.outcome import ConnectFailed, Outcome, TimedOut
from toril.engine.executor import EXHAUSTED_PAUSE_S, Executor
from toril.engine.slot import Slot
from toril.testing import FakeClock, FakeLeaseStore, FakeOutbound, answered


class Room:
    """One slot, one leased job, and the pipeline it goes through."""

    def __init__(self, clock: FakeClock) -> None:
        self.store = FakeLeaseStore("orders", now=clock, lock_s=LOCK_S)
        self.endpoints = Endpoints()
        self.outbound = FakeOutbound(self.endpoints)
        self.executor = Executor(Desk(timeout_s=20.0), self.store, self.outbound, patient(2 * LOCK_S), lambda: 0.5)
        self.slot = Slot(b"token:1")

    async def lease(self, job_id: str = "1", **job: Any) -> Lease:
        self.store.add(job_id, **job)
        return await self.again()

    async def again(self) -> Lease:
        found = await self.store.take(self.slot.token)
        assert isinstance(found, Lease)
        found.renewed_at = asyncio.get_running_loop().time()
        return found

    async def execute(self, lease: Lease) -> Any:
        return await self.executor.execute(self.slot, lease, lambda: True)


@pytest.fixture
def room(clock: FakeClock) -> Room:
    return Room(clock)


async def test_a_job_goes_from_its_request_to_its_settlement(room: Room) -> None:
    room.endpoints.open()
    assert await room.execute(await room.lease()) == NoJob()
    assert [request.body for request in room.outbound.requests] == [b"1"]
    assert room.store.completed == {b"1": b'"done"'}


async def test_the_next_lease_comes_with_the_settlement(room: Room) -> None:
    room.endpoints.open()
    lease = await room.lease()
    room.store.add("2")
    found = await room.execute(lease)
    assert isinstance(found, Lease)
    assert (found.job_id, found.token) == (b"2", b"token:1")


async def test_a_failed_attempt_is_retried_while_attempts_are_left(room: Room) -> None:
    room.endpoints.open(answered(500))
    await room.execute(await room.lease(opts={"attempts": 2}))
    assert list(room.store.waiting) == [b"1"]
    lease = await room.store.take(b"token:1")
    assert isinstance(lease, Lease)
    await room.execute(lease)
    assert room.store.failed == {b"1": "Answered"}


async def test_what_this_machine_lacks_spends_no_attempt_and_the_slot_rests(room: Room, clock: FakeClock) -> None:
    lacking = ConnectFailed("EMFILE", "Too many open files", 0.0, exhausted=True)
    room.endpoints.open(lacking)
    told: list[object] = []
    room.executor._told = lambda *what: told.append(what)
    with capture_logs() as logs:
        lease = await room.lease()
        for _ in range(3):
            assert await room.execute(lease) is None
            assert list(room.store.waiting) == [b"1"]
            lease = await room.again()
    assert clock.elapsed_s == pytest.approx(3 * EXHAUSTED_PAUSE_S)
    assert (room.store.failed, told) == ({}, [])
    assert [(entry["event"], entry["code"]) for entry in logs] == [("process.exhausted", "EMFILE")]
    room.endpoints.open()
    assert lease.attempt == 1
    await room.execute(lease)
    assert room.store.completed == {b"1": b'"done"'}


async def test_a_slot_that_rests_can_be_broken_off(room: Room) -> None:
    room.endpoints.open(ConnectFailed("ENFILE", "none left", 0.0, exhausted=True))
    lease = await room.lease()
    async with asyncio.TaskGroup() as tasks:
        room.slot.task = tasks.create_task(room.execute(lease))
        await turns()
        room.slot.break_off()
        assert await room.slot.task is None
    assert list(room.store.waiting) == [b"1"]


async def test_a_connection_that_is_refused_spends_an_attempt(room: Room) -> None:
    room.endpoints.open(ConnectFailed("ECONNREFUSED", "nothing there", 0.0))
    await room.execute(await room.lease())
    assert room.store.failed == {b"1": "ConnectFailed"}


async def test_a_request_has_its_own_timeout(room: Room, clock: FakeClock) -> None:
    await room.execute(await room.lease())
    assert clock.elapsed_s == pytest.approx(20.0)
    assert room.store.failed == {b"1": "TimedOut"}


async def test_all_jobs_of_a_destination_share_one_pool(room: Room) -> None:
    room.endpoints.open()
    for job_id in ("1", "2", "3"):
        await room.execute(await room.lease(job_id))
    (pool,) = room.outbound.pools
    assert pool.url == "http://desk.example/"
    room.executor.close()
    assert pool.closed
    room.executor.close()


async def test_a_pool_is_made_anew_after_it_was_closed(room: Room) -> None:
    room.endpoints.open()
    await room.execute(await room.lease("1"))
    room.executor.close()
    await room.execute(await room.lease("2"))
    assert [pool.closed for pool in room.outbound.pools] == [True, False]


async def test_nothing_is_opened_before_the_first_attempt(room: Room) -> None:
    room.executor.close()
    assert room.outbound.pools == []


async def test_a_failure_decided_elsewhere_needs_no_attempt(room: Room) -> None:
    lease = await room.lease(fields={b"defa": b"child 5 failed"})
    await room.execute(lease)
    assert room.outbound.requests == []
    assert room.store.failed == {b"1": "child 5 failed"}
    assert room.store.jobs[b"1"][b"stacktrace"] == b'["UnrecoverableError: child 5 failed"]'


async def test_a_schedulers_job_asks_for_its_next_iteration_before_it_is_worked_on(room: Room) -> None:
    lease = await room.lease(fields={b"rjk": b"hourly"})
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(room.execute(lease))
        await turns()
        assert room.store.scheduled == [b"1"]
        assert room.store.completed == {}
        room.endpoints.open()
    assert room.store.completed.keys() == {b"1"}


async def test_the_next_iteration_is_asked_for_again_while_the_store_is_away(room: Room) -> None:
    room.endpoints.open()
    lease = await room.lease(fields={b"rjk": b"hourly"})
    room.store.break_next("schedule_next", carried_out=False, times=3)
    await room.execute(lease)
    assert room.store.scheduled == [b"1"]
    assert room.store.completed.keys() == {b"1"}


async def test_a_job_without_which_its_scheduler_would_end_is_kept(room: Room) -> None:
    room.store.unreadable = "Unknown time zone Mars/Olympus"
    lease = await room.lease(fields={b"rjk": b"hourly"})
    await room.execute(lease)
    assert room.outbound.requests == []
    assert room.store.calls[-1] == "snooze"
    assert room.store.completed == room.store.failed == {}


async def test_a_job_without_a_scheduler_asks_for_nothing(room: Room) -> None:
    room.endpoints.open()
    await room.execute(await room.lease())
    assert room.store.scheduled == []


async def test_an_attempt_that_is_broken_off_gives_the_job_back(room: Room) -> None:
    lease = await room.lease()
    async with asyncio.TaskGroup() as tasks:
        room.slot.task = tasks.create_task(room.execute(lease))
        await turns()
        assert room.slot.attempting
        room.slot.break_off()
    assert room.slot.task.result() is None
    assert list(room.store.waiting) == [b"1"]
    assert b"atm" not in room.store.jobs[b"1"]
    assert len(room.outbound.broken_off) == 1


async def test_a_lost_lease_that_is_broken_off_writes_nothing(room: Room) -> None:
    lease = await room.lease()
    calls = len(room.store.calls)
    async with asyncio.TaskGroup() as tasks:
        room.slot.task = tasks.create_task(room.execute(lease))
        await turns()
        lease.lost = True
        room.slot.break_off()
    assert room.slot.task.result() is None
    assert room.store.calls[calls:] == []


async def test_breaking_off_leaves_the_task_able_to_go_on(room: Room) -> None:
    lease = await room.lease()

    async def work() -> str:
        await room.execute(lease)
        await asyncio.sleep(1)
        return "went on"

    async with asyncio.TaskGroup() as tasks:
        room.slot.task = task = tasks.create_task(work())  # type: ignore[assignment]
        await turns()
        room.slot.break_off()
    assert task.result() == "went on"
    assert task.cancelling() == 0


async def test_a_process_that_goes_down_cancels_the_attempt_for_good(room: Room) -> None:
    lease = await room.lease()
    async with asyncio.TaskGroup() as tasks:
        room.slot.task = tasks.create_task(room.execute(lease))
        await turns()
        room.slot.task.cancel()
    assert room.slot.task.cancelled()
    assert "release" not in room.store.calls


async def test_a_settlement_is_not_broken_off(room: Room) -> None:
    room.endpoints.open()
    lease = await room.lease()
    room.store.hold_answers()
    async with asyncio.TaskGroup() as tasks:
        room.slot.task = tasks.create_task(room.execute(lease))
        await turns()
        assert not room.slot.attempting
        room.slot.break_off()
        room.store.let_answers_go()
    assert room.store.completed.keys() == {b"1"}


async def test_a_broken_off_attempt_that_had_been_answered_gives_the_job_back(room: Room) -> None:
    """The answer is there, the task has not run yet: either way the job is in one place only."""
    lease = await room.lease()
    async with asyncio.TaskGroup() as tasks:
        room.slot.task = tasks.create_task(room.execute(lease))
        await turns()
        room.endpoints.answer(b"1")
        room.slot.break_off()
    places = [b"1" in room.store.waiting, b"1" in room.store.completed, b"1" in room.store.active]
    assert places.count(True) == 1
    assert b"1" not in room.store.active


@pytest.mark.parametrize(
    ("outcome", "level", "fields"),
    [
        (answered(200), "debug", {"outcome": "Answered", "status": 200, "verdict": "Complete", "reason": None}),
        (answered(500), "info", {"outcome": "Answered", "status": 500, "verdict": "Fail", "reason": "Answered"}),
        (TimedOut("answer", 3.0), "info", {"outcome": "TimedOut", "status": None, "duration_ms": 3000.0}),
    ],
)
async def test_each_attempt_is_one_log_line(room: Room, outcome: Outcome, level: str, fields: dict[str, Any]) -> None:
    room.endpoints.open(outcome)
    lease = await room.lease()
    with capture_logs() as logs:
        await room.execute(lease)
    (line,) = [line for line in logs if line["event"] == "attempt"]
    assert line["log_level"] == level
    assert line.items() >= ({"queue": "orders", "job_id": "1", "attempt": 1} | fields).items()
