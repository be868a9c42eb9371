import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.unit.engine.support import LOCK_S, patient
from toril.core.errors import ConnectionLost, LeaseLost, StoreError, StoreRefused, StoreTimeout
from toril.core.lease import Lease, NoJob
from toril.core.verdict import Complete, Fail, Retry
from toril.engine.slot import Slot
from toril.testing import FakeClock, FakeLeaseStore

DONE = Complete(b'"done"')
PATIENCE_S = 2 * LOCK_S


class SettlerBench:
    """A leased job, and a settler to settle it."""

    def __init__(self, clock: FakeClock, store: FakeLeaseStore, slot: Slot, lease: Lease) -> None:
        self.clock = clock
        self.store = store
        self.slot = slot
        self.lease = lease
        self.settler = patient(PATIENCE_S)
        self.may_lease = True

    async def settle(self, verdict: Any = DONE) -> Any:
        return await self.settler.settle(self.store, self.slot, self.lease, verdict, lambda: self.may_lease)

    @property
    def settlements(self) -> list[str]:
        return [call for call in self.store.calls if call not in {"take", "extend"}]


async def bench(clock: FakeClock, *more_jobs: str, **opts: Any) -> SettlerBench:
    store = FakeLeaseStore("orders", now=clock, lock_s=LOCK_S)
    store.add("1", opts=opts)
    for job_id in more_jobs:
        store.add(job_id)
    slot = Slot(b"token:1")
    lease = await store.take(slot.token)
    assert isinstance(lease, Lease)
    lease.renewed_at = asyncio.get_running_loop().time()
    return SettlerBench(clock, store, slot, lease)


def job_id_of(found: Any) -> bytes:
    assert isinstance(found, Lease)
    return found.job_id


async def test_a_settlement_brings_the_next_lease(clock: FakeClock) -> None:
    made = await bench(clock, "2")
    assert job_id_of(await made.settle()) == b"2"
    assert made.store.completed == {b"1": b'"done"'}


async def test_a_settlement_says_that_there_is_nothing_more(clock: FakeClock) -> None:
    made = await bench(clock)
    assert await made.settle() == NoJob()


async def test_a_consumer_that_may_not_lease_gets_no_next_job(clock: FakeClock) -> None:
    made = await bench(clock, "2")
    made.may_lease = False
    assert await made.settle() is None
    assert list(made.store.waiting) == [b"2"]


async def test_a_failure_is_written_with_its_reason(clock: FakeClock) -> None:
    made = await bench(clock)
    await made.settle(Fail("Bad Gateway", "trace"))
    assert made.store.failed == {b"1": "Bad Gateway"}
    assert made.store.jobs[b"1"][b"stacktrace"] == b'["trace"]'


@pytest.mark.parametrize(("after_ms", "waits", "is_delayed"), [(0, True, False), (5000, False, True)])
async def test_a_retry_goes_to_waiting_or_to_delayed(
    clock: FakeClock, after_ms: int, waits: bool, is_delayed: bool
) -> None:
    made = await bench(clock)
    await made.settle(Retry(after_ms, "Bad Gateway", "trace"))
    assert (b"1" in made.store.waiting, b"1" in made.store.delayed) == (waits, is_delayed)
    assert made.store.jobs[b"1"][b"atm"] == b"1"


async def test_a_lost_lease_writes_nothing(clock: FakeClock) -> None:
    made = await bench(clock)
    made.lease.lost = True
    assert await made.settle() is None
    assert made.settlements == []


async def test_a_lease_that_turns_out_lost_is_logged_and_not_tried_again(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.steal(b"1")
    with capture_logs() as logs:
        assert await made.settle() is None
    assert made.settlements == ["complete"]
    assert not made.slot.doubtful
    assert [line["event"] for line in logs] == ["lease.lost"]


async def test_a_settlement_takes_back_a_lock_that_has_lapsed(clock: FakeClock) -> None:
    made = await bench(clock, "2")
    made.store.lapse(b"1")
    with capture_logs() as logs:
        assert job_id_of(await made.settle()) == b"2"
    assert made.settlements == ["complete", "complete"]
    assert [line["event"] for line in logs] == ["lease.taken_back"]
    assert (made.store.completed.keys(), made.slot.doubtful) == ({b"1"}, False)


async def test_a_settlement_takes_back_a_lock_also_while_redis_breaks_off_its_answers(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.lapse(b"1")
    made.store.break_next("extend", carried_out=True, times=2)
    await made.settle()
    assert made.store.completed.keys() == {b"1"}


async def test_a_release_takes_back_a_lock_that_has_lapsed(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.lapse(b"1")
    with capture_logs():
        await made.settler.release(made.store, made.lease)
    assert (made.store.released, made.store.active) == ([b"1"], {})


async def test_a_release_writes_nothing_for_a_lease_that_is_given_up_while_its_lock_is_taken_back(
    clock: FakeClock,
) -> None:
    made = await bench(clock)
    made.store.lapse(b"1")
    made.store.answer_after_s = lambda: 1.0
    async with asyncio.TaskGroup() as tasks:
        with capture_logs():
            releasing = tasks.create_task(made.settler.release(made.store, made.lease))
            await asyncio.sleep(0.5)
            assert made.store.calls[-1] == "extend"
            made.lease.lost = True
            await releasing
    assert made.store.calls.count("release") == 1
    assert made.store.released == []


async def test_the_token_of_a_lease_that_was_lost_holds_no_other_job(clock: FakeClock) -> None:
    """A renewal that is on its way may still take the lock back: the job must not be found as one of the next token."""
    made = await bench(clock)
    made.store.steal(b"1")
    with capture_logs():
        await made.settle()
    assert made.lease.unanswered


async def test_a_settlement_that_comes_after_the_stalled_check_is_dropped(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.lapse(b"1")
    for _ in range(2):
        await made.store.recover_stalled()
    with capture_logs() as logs:
        assert await made.settle() is None
    assert list(made.store.waiting) == [b"1"]
    assert [line["event"] for line in logs] == ["lease.lost"]


async def test_a_settlement_is_tried_again_while_the_store_is_away(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.go_away()
    async with asyncio.TaskGroup() as tasks:
        settling = tasks.create_task(made.settle())
        await asyncio.sleep(LOCK_S / 2)
        made.store.come_back()
    assert settling.result() == NoJob()
    assert made.store.completed.keys() == {b"1"}
    assert 25 < len(made.settlements) < 60, "a few times a second, not in a busy loop"


async def test_the_first_retries_of_a_settlement_come_quickly(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.break_next("complete", carried_out=False, times=3)
    began = clock()
    await made.settle()
    assert made.store.completed.keys() == {b"1"}
    assert clock() - began < 0.5


async def test_a_settlement_is_not_repeated_after_an_answer(clock: FakeClock) -> None:
    made = await bench(clock)
    await made.settle()
    await asyncio.sleep(100)
    assert made.settlements == ["complete"]


@pytest.mark.parametrize("error", [ConnectionLost(), StoreTimeout()])
async def test_a_settlement_whose_answer_got_lost_is_not_carried_out_twice(clock: FakeClock, error: StoreError) -> None:
    made = await bench(clock, "2")
    made.store.break_next("complete", carried_out=True, error=error)
    with capture_logs() as logs:
        assert await made.settle() is None
    assert made.settlements == ["complete", "complete"]
    assert made.store.completed.keys() == {b"1"}
    assert made.store.jobs[b"1"][b"atm"] == b"1"
    assert made.slot.doubtful, "the token may hold the next job"
    assert made.store.active[b"2"][0] == made.slot.token
    assert logs == [], "it was our own doing"


async def test_a_settlement_that_was_not_carried_out_leaves_no_doubt(clock: FakeClock) -> None:
    made = await bench(clock, "2")
    made.store.break_next("complete", carried_out=False, times=2)
    await made.settle()
    assert made.store.completed.keys() == {b"1"}
    assert not made.slot.doubtful


async def test_after_a_try_without_an_answer_no_job_is_leased_under_the_same_token(clock: FakeClock) -> None:
    made = await bench(clock, "2")
    made.store.break_next("complete", carried_out=False)
    assert await made.settle() is None
    assert list(made.store.waiting) == [b"2"]


async def test_a_release_of_a_lease_that_is_lost_meanwhile_is_not_tried_again(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.go_away()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(made.settler.release(made.store, made.lease))
        await asyncio.sleep(1)
        made.lease.lost = True
        made.store.come_back()
    assert made.store.released == []


async def test_a_store_that_was_never_reached_leaves_no_doubt(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.go_away()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(made.settle())
        await asyncio.sleep(1)
        made.store.steal(b"1")
        made.store.come_back()
    assert not made.slot.doubtful


async def test_settling_goes_on_until_redis_is_back_however_long_the_lock_has_been_gone(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.go_away()
    async with asyncio.TaskGroup() as tasks:
        settling = tasks.create_task(made.settle())
        await asyncio.sleep(10 * PATIENCE_S)
        made.store.lapse(b"1")
        made.store.come_back()
    assert made.store.completed == {b"1": b'"done"'}
    assert settling.result() is not None


async def test_a_lease_lost_while_the_store_is_away_is_given_up(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.go_away()
    async with asyncio.TaskGroup() as tasks:
        settling = tasks.create_task(made.settle())
        await asyncio.sleep(1)
        made.lease.lost = True
        made.store.come_back()
    assert settling.result() is None
    assert made.store.completed == {}


async def test_whether_to_lease_is_asked_anew_for_each_try(clock: FakeClock) -> None:
    made = await bench(clock, "2")
    made.store.go_away()
    async with asyncio.TaskGroup() as tasks:
        settling = tasks.create_task(made.settle())
        await asyncio.sleep(1)
        made.may_lease = False
        made.store.come_back()
    assert settling.result() is None
    assert list(made.store.waiting) == [b"2"]


async def test_a_job_that_cannot_complete_fails_instead(clock: FakeClock) -> None:
    made = await bench(clock, "2")
    made.store.pending_children.add(b"1")
    with capture_logs():
        assert job_id_of(await made.settle()) == b"2"
    assert made.store.failed == {b"1": "the job has pending children"}


async def test_a_failing_instead_whose_answer_got_lost_leaves_its_token_in_doubt(clock: FakeClock) -> None:
    """It has brought the next job; only the recoverer will find it."""
    made = await bench(clock, "2")
    made.store.pending_children.add(b"1")
    made.store.break_next("fail", carried_out=True)
    with capture_logs():
        assert await made.settle() is None
    assert made.slot.doubtful
    assert made.store.failed.keys() == {b"1"}


async def test_a_job_lost_between_completing_and_failing_is_only_logged(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.pending_children.add(b"1")
    made.store.break_next("fail", carried_out=False, error=StoreTimeout())
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as tasks:
            settling = tasks.create_task(made.settle())
            await asyncio.sleep(0.01)
            made.store.steal(b"1")
    assert settling.result() is None
    assert "settle.refused" in [line["event"] for line in logs]
    assert made.store.failed == {}


async def test_a_settlement_that_redis_refuses_is_logged_and_not_retried(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.break_next("complete", carried_out=False, error=StoreRefused("ERR no"))
    with capture_logs() as logs:
        assert await made.settle() is None
    assert made.settlements == ["complete"]
    assert [(line["log_level"], line["event"]) for line in logs] == [("error", "settle.failed")]


async def test_a_released_job_is_at_the_head_again(clock: FakeClock) -> None:
    made = await bench(clock, "2")
    made.store.break_next("release", carried_out=False, times=2)
    await made.settler.release(made.store, made.lease)
    assert list(made.store.waiting) == [b"1", b"2"]


async def test_a_release_that_fails_is_only_logged(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.steal(b"1")
    with capture_logs() as logs:
        await made.settler.release(made.store, made.lease)
    assert [line["event"] for line in logs] == ["release.failed"]


async def test_a_release_whose_answer_got_lost_is_not_made_twice(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.break_next("release", carried_out=True)
    with capture_logs():
        await made.settler.release(made.store, made.lease)
    assert list(made.store.waiting) == [b"1"]


async def test_patiently_gives_up_after_its_time(clock: FakeClock) -> None:
    made = await bench(clock)
    made.store.go_away()
    with pytest.raises(StoreError):
        await made.settler.patiently(lambda: made.store.schedule_next(made.lease))
    assert clock.elapsed_s == pytest.approx(PATIENCE_S, abs=1.0)


async def test_patiently_lets_other_errors_through(clock: FakeClock) -> None:
    made = await bench(clock)

    async def refuse() -> None:
        made.store.calls.append("refuse")
        raise LeaseLost

    with pytest.raises(LeaseLost):
        await made.settler.patiently(refuse)
    assert made.store.calls.count("refuse") == 1
