import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.unit.engine.support import LOCK_S, Endpoints, FakeDestination, patient, turns
from toril.core.lease import Lease, NoJob
from toril.core.outcome import ConnectFailed, Outcome, TimedOut
from toril.engine.executor import EXHAUSTED_PAUSE_S, Executor
from toril.engine.slot import Slot
from toril.testing import FakeClock, FakeLeaseStore, FakeOutbound, answered


class ExecutorBench:
    """One slot, one leased job, and the pipeline it goes through."""

    def __init__(self, clock: FakeClock) -> None:
        self.store = FakeLeaseStore("orders", now=clock, lock_s=LOCK_S)
        self.endpoints = Endpoints()
        self.outbound = FakeOutbound(self.endpoints)
        self.executor = Executor(
            FakeDestination(timeout_s=20.0), self.store, self.outbound, patient(2 * LOCK_S), lambda: 0.5
        )
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
def bench(clock: FakeClock) -> ExecutorBench:
    return ExecutorBench(clock)


async def test_a_job_goes_from_its_request_to_its_settlement(bench: ExecutorBench) -> None:
    bench.endpoints.open()
    assert await bench.execute(await bench.lease()) == NoJob()
    assert [request.body for request in bench.outbound.requests] == [b"1"]
    assert bench.store.completed == {b"1": b'"done"'}


async def test_the_next_lease_comes_with_the_settlement(bench: ExecutorBench) -> None:
    bench.endpoints.open()
    lease = await bench.lease()
    bench.store.add("2")
    found = await bench.execute(lease)
    assert isinstance(found, Lease)
    assert (found.job_id, found.token) == (b"2", b"token:1")


async def test_a_failed_attempt_is_retried_while_attempts_are_left(bench: ExecutorBench) -> None:
    bench.endpoints.open(answered(500))
    await bench.execute(await bench.lease(opts={"attempts": 2}))
    assert list(bench.store.waiting) == [b"1"]
    lease = await bench.store.take(b"token:1")
    assert isinstance(lease, Lease)
    await bench.execute(lease)
    assert bench.store.failed == {b"1": "Answered"}


async def test_a_lack_of_local_resources_spends_no_attempt_and_pauses_the_slot(
    bench: ExecutorBench, clock: FakeClock
) -> None:
    lacking = ConnectFailed("EMFILE", "Too many open files", 0.0, exhausted=True)
    bench.endpoints.open(lacking)
    told: list[object] = []
    bench.executor._on_attempt = lambda *what: told.append(what)
    with capture_logs() as logs:
        lease = await bench.lease()
        for _ in range(3):
            assert await bench.execute(lease) is None
            assert list(bench.store.waiting) == [b"1"]
            lease = await bench.again()
    assert clock.elapsed_s == pytest.approx(3 * EXHAUSTED_PAUSE_S)
    assert (bench.store.failed, told) == ({}, [])
    assert [(entry["event"], entry["code"]) for entry in logs] == [("process.exhausted", "EMFILE")]
    bench.endpoints.open()
    assert lease.attempt == 1
    await bench.execute(lease)
    assert bench.store.completed == {b"1": b'"done"'}


async def test_a_paused_slot_can_be_broken_off(bench: ExecutorBench) -> None:
    bench.endpoints.open(ConnectFailed("ENFILE", "none left", 0.0, exhausted=True))
    lease = await bench.lease()
    async with asyncio.TaskGroup() as tasks:
        bench.slot.task = tasks.create_task(bench.execute(lease))
        await turns()
        bench.slot.break_off()
        assert await bench.slot.task is None
    assert list(bench.store.waiting) == [b"1"]


async def test_a_connection_that_is_refused_spends_an_attempt(bench: ExecutorBench) -> None:
    bench.endpoints.open(ConnectFailed("ECONNREFUSED", "nothing there", 0.0))
    await bench.execute(await bench.lease())
    assert bench.store.failed == {b"1": "ConnectFailed"}


async def test_a_request_has_its_own_timeout(bench: ExecutorBench, clock: FakeClock) -> None:
    await bench.execute(await bench.lease())
    assert clock.elapsed_s == pytest.approx(20.0)
    assert bench.store.failed == {b"1": "TimedOut"}


async def test_all_jobs_of_a_destination_share_one_pool(bench: ExecutorBench) -> None:
    bench.endpoints.open()
    for job_id in ("1", "2", "3"):
        await bench.execute(await bench.lease(job_id))
    (pool,) = bench.outbound.pools
    assert pool.url == "http://destination.example/"
    bench.executor.close()
    assert pool.closed
    bench.executor.close()


async def test_a_pool_is_made_anew_after_it_was_closed(bench: ExecutorBench) -> None:
    bench.endpoints.open()
    await bench.execute(await bench.lease("1"))
    bench.executor.close()
    await bench.execute(await bench.lease("2"))
    assert [pool.closed for pool in bench.outbound.pools] == [True, False]


async def test_nothing_is_opened_before_the_first_attempt(bench: ExecutorBench) -> None:
    bench.executor.close()
    assert bench.outbound.pools == []


async def test_a_lease_with_a_failure_already_decided_is_settled_without_an_attempt(bench: ExecutorBench) -> None:
    lease = await bench.lease(fields={b"defa": b"child 5 failed"})
    await bench.execute(lease)
    assert bench.outbound.requests == []
    assert bench.store.failed == {b"1": "child 5 failed"}
    assert bench.store.jobs[b"1"][b"stacktrace"] == b'["UnrecoverableError: child 5 failed"]'


async def test_a_schedulers_job_asks_for_its_next_iteration_before_it_is_worked_on(bench: ExecutorBench) -> None:
    lease = await bench.lease(fields={b"rjk": b"hourly"})
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.execute(lease))
        await turns()
        assert bench.store.scheduled == [b"1"]
        assert bench.store.completed == {}
        bench.endpoints.open()
    assert bench.store.completed.keys() == {b"1"}


async def test_the_next_iteration_is_asked_for_again_while_the_store_is_away(bench: ExecutorBench) -> None:
    bench.endpoints.open()
    lease = await bench.lease(fields={b"rjk": b"hourly"})
    bench.store.break_next("schedule_next", carried_out=False, times=3)
    await bench.execute(lease)
    assert bench.store.scheduled == [b"1"]
    assert bench.store.completed.keys() == {b"1"}


async def test_a_job_that_is_lost_while_its_next_iteration_is_asked_for_is_left_alone(bench: ExecutorBench) -> None:
    bench.endpoints.open()
    lease = await bench.lease(fields={b"rjk": b"hourly"})
    bench.store.go_away()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(bench.execute(lease))
        await turns()
        lease.lost = True
        bench.slot.dismiss()
        bench.store.come_back()
    assert bench.store.scheduled == [b"1"]
    assert bench.outbound.requests == []
    assert "release" not in bench.store.calls


async def test_a_job_without_which_its_scheduler_would_end_is_kept(bench: ExecutorBench) -> None:
    bench.store.unreadable = "Unknown time zone Mars/Olympus"
    lease = await bench.lease(fields={b"rjk": b"hourly"})
    await bench.execute(lease)
    assert bench.outbound.requests == []
    assert bench.store.calls[-1] == "snooze"
    assert bench.store.completed == bench.store.failed == {}


async def test_a_job_without_a_scheduler_asks_for_nothing(bench: ExecutorBench) -> None:
    bench.endpoints.open()
    await bench.execute(await bench.lease())
    assert bench.store.scheduled == []


async def test_an_attempt_that_is_broken_off_gives_the_job_back(bench: ExecutorBench) -> None:
    lease = await bench.lease()
    async with asyncio.TaskGroup() as tasks:
        bench.slot.task = tasks.create_task(bench.execute(lease))
        await turns()
        assert bench.slot.attempting
        bench.slot.break_off()
    assert bench.slot.task.result() is None
    assert list(bench.store.waiting) == [b"1"]
    assert b"atm" not in bench.store.jobs[b"1"]
    assert len(bench.outbound.broken_off) == 1


async def test_a_lost_lease_that_is_broken_off_writes_nothing(bench: ExecutorBench) -> None:
    lease = await bench.lease()
    calls = len(bench.store.calls)
    async with asyncio.TaskGroup() as tasks:
        bench.slot.task = tasks.create_task(bench.execute(lease))
        await turns()
        lease.lost = True
        bench.slot.break_off()
    assert bench.slot.task.result() is None
    assert bench.store.calls[calls:] == []


async def test_breaking_off_leaves_the_task_able_to_go_on(bench: ExecutorBench) -> None:
    lease = await bench.lease()

    async def work() -> str:
        await bench.execute(lease)
        await asyncio.sleep(1)
        return "went on"

    async with asyncio.TaskGroup() as tasks:
        bench.slot.task = task = tasks.create_task(work())  # type: ignore[assignment]
        await turns()
        bench.slot.break_off()
    assert task.result() == "went on"
    assert task.cancelling() == 0


async def test_a_process_that_goes_down_cancels_the_attempt_for_good(bench: ExecutorBench) -> None:
    lease = await bench.lease()
    async with asyncio.TaskGroup() as tasks:
        bench.slot.task = tasks.create_task(bench.execute(lease))
        await turns()
        bench.slot.task.cancel()
    assert bench.slot.task.cancelled()
    assert "release" not in bench.store.calls


async def test_a_settlement_is_not_broken_off(bench: ExecutorBench) -> None:
    bench.endpoints.open()
    lease = await bench.lease()
    bench.store.hold_answers()
    async with asyncio.TaskGroup() as tasks:
        bench.slot.task = tasks.create_task(bench.execute(lease))
        await turns()
        assert not bench.slot.attempting
        bench.slot.break_off()
        bench.store.let_answers_go()
    assert bench.store.completed.keys() == {b"1"}


async def test_a_broken_off_attempt_that_had_been_answered_gives_the_job_back(bench: ExecutorBench) -> None:
    """The answer is there, the task has not run yet: either way the job is in one place only."""
    lease = await bench.lease()
    async with asyncio.TaskGroup() as tasks:
        bench.slot.task = tasks.create_task(bench.execute(lease))
        await turns()
        bench.endpoints.answer(b"1")
        bench.slot.break_off()
    places = [b"1" in bench.store.waiting, b"1" in bench.store.completed, b"1" in bench.store.active]
    assert places.count(True) == 1
    assert b"1" not in bench.store.active


@pytest.mark.parametrize(
    ("outcome", "level", "fields"),
    [
        (answered(200), "debug", {"outcome": "Answered", "status": 200, "verdict": "Complete", "reason": None}),
        (answered(500), "info", {"outcome": "Answered", "status": 500, "verdict": "Fail", "reason": "Answered"}),
        (TimedOut("answer", 3.0), "info", {"outcome": "TimedOut", "status": None, "duration_ms": 3000.0}),
    ],
)
async def test_each_attempt_is_one_log_line(
    bench: ExecutorBench, outcome: Outcome, level: str, fields: dict[str, Any]
) -> None:
    bench.endpoints.open(outcome)
    lease = await bench.lease()
    with capture_logs() as logs:
        await bench.execute(lease)
    (line,) = [line for line in logs if line["event"] == "attempt"]
    assert line["log_level"] == level
    assert line.items() >= ({"queue": "orders", "job_id": "1", "attempt": 1} | fields).items()


class TestALateAttempt:
    """The process stood still between the lease and its request."""

    async def late(self, bench: ExecutorBench, by_s: float) -> Lease:
        lease = await bench.lease()
        lease.renewed_at -= by_s
        return lease

    async def test_is_not_made_if_another_worker_has_the_job(self, bench: ExecutorBench) -> None:
        bench.endpoints.open()
        lease = await self.late(bench, LOCK_S)
        bench.store.steal(b"1")
        with capture_logs() as logs:
            assert await bench.execute(lease) is None
        assert bench.outbound.requests == []
        assert (lease.lost, lease.unanswered) == (True, True)
        assert [line["event"] for line in logs] == ["lease.lost"]

    async def test_is_made_with_a_renewed_lock_if_none_has(self, bench: ExecutorBench) -> None:
        bench.endpoints.open()
        lease = await self.late(bench, LOCK_S)
        before = asyncio.get_running_loop().time()
        assert await bench.execute(lease) == NoJob()
        assert bench.store.completed == {b"1": b'"done"'}
        assert bench.store.calls.count("extend") == 1
        assert lease.renewed_at >= before

    async def test_is_not_made_while_redis_cannot_say_who_has_the_job(self, bench: ExecutorBench) -> None:
        bench.endpoints.open()
        lease = await self.late(bench, LOCK_S)
        bench.store.break_next("extend", carried_out=False)
        await bench.execute(lease)
        assert bench.store.calls == ["take", "extend", "extend", "complete"]
        assert len(bench.outbound.requests) == 1

    async def test_is_none_while_its_lock_must_be_there(self, bench: ExecutorBench) -> None:
        bench.endpoints.open()
        await bench.execute(await self.late(bench, LOCK_S * 0.7))
        assert "extend" not in bench.store.calls
