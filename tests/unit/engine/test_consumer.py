import asyncio
import gc
import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.unit.engine.support import LOCK_S, Bench, bench, until
from toril.core.errors import StoreTimeout
from toril.core.lease import Lease, Next
from toril.core.outcome import ConnectFailed, Outcome
from toril.engine.executor import Executor
from toril.engine.slot import Slot
from toril.queues.rules.worker import Limiter
from toril.testing import FakeClock, answered


def lose(made: Bench, job_id: bytes) -> None:
    """Let the consumer learn that a lease of a job is lost."""
    for lease in [lease for lease in made.consumer.in_flight if lease.job_id == job_id]:
        made.consumer.lose(lease)


async def test_a_waiting_job_is_leased_attempted_and_settled(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: made.store.completed == {b"1": b'"done"'})
        assert made.attempted == [b"1"]
        assert made.presence.shown == {"orders"}


async def test_an_idle_consumer_is_a_wait_on_a_marker_and_nothing_else(clock: FakeClock) -> None:
    async with bench(clock, 5) as made:
        made.consumer.look()
        await made.settle_down()
        assert made.waits.watched == {"orders"}
        assert made.consumer.slots == set()
        calls = list(made.store.calls)
        await asyncio.sleep(3600)
        assert made.store.calls == calls


async def test_a_marker_wakes_an_idle_consumer(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        made.consumer.look()
        await made.settle_down()
        made.store.add("1")
        await made.until(lambda: made.store.completed)
        await made.settle_down()
        assert made.waits.watched == {"orders"}


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
async def test_a_burst_fills_all_slots_and_no_more(clock: FakeClock, limit: int) -> None:
    async with bench(clock, limit) as made:
        for number in range(3 * limit):
            made.store.add(str(number))
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == limit)
        await asyncio.sleep(20)
        assert len(made.consumer.slots) == len(made.store.active) == limit
        made.endpoints.open()
        await made.until(lambda: len(made.store.completed) == 3 * limit)
        assert made.outbound.most_in_flight == limit
        assert made.attempted == [str(number).encode() for number in range(3 * limit)]


async def test_slots_grow_in_doubling_steps(clock: FakeClock) -> None:
    async with bench(clock, 64) as made:
        made.store.answer_after_s = lambda: 1.0
        for number in range(100):
            made.store.add(str(number))
        made.consumer.look()
        sizes = []
        await asyncio.sleep(0.5)
        for _ in range(8):
            sizes.append(len(made.consumer.slots))
            await asyncio.sleep(1.0)
        assert sizes == [1, 2, 4, 8, 16, 32, 64, 64]


async def test_slots_that_find_no_job_end(clock: FakeClock) -> None:
    async with bench(clock, 64) as made:
        for number in range(3):
            made.store.add(str(number))
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 3)
        await made.settle_down()
        assert len(made.consumer.slots) == 3
        assert made.waits.watched == {"orders"}


async def test_settling_brings_the_next_job_without_another_look(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        for number in range(5):
            made.store.add(str(number))
        made.consumer.look()
        await made.until(lambda: len(made.store.completed) == 5)
        assert made.store.calls[:6] == ["take", *["complete"] * 5]


@pytest.mark.parametrize("limit", [1, 2])
async def test_a_wake_while_looking_is_not_lost(clock: FakeClock, limit: int) -> None:
    """A look is on its way (a poll's, say) and is answered with nothing; just then a job comes."""
    async with bench(clock, limit) as made:
        made.endpoints.open()
        made.consumer.look()
        await made.settle_down()
        made.store.hold_answers()
        made.consumer.look()
        await made.settle_down()
        assert made.store.calls == ["take", "take"]
        made.store.add("1")
        await made.settle_down()
        assert made.waits.markers == {}, "the marker is used up: it will wake no other worker"
        made.store.let_answers_go()
        await made.until(lambda: made.store.completed)


async def test_many_wakes_while_looking_are_one_more_look(clock: FakeClock) -> None:
    async with bench(clock, 5) as made:
        made.store.hold_answers()
        made.consumer.look()
        await made.settle_down()
        for _ in range(10):
            made.consumer.look()
        made.store.let_answers_go()
        await made.settle_down()
        assert made.store.calls == ["take", "take"]


async def test_a_delayed_job_is_looked_for_when_its_time_has_come(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        made.consumer.look()
        await made.settle_down()
        made.store.add("1", delay_s=100.0)
        await asyncio.sleep(99.9)
        assert made.attempted == []
        await asyncio.sleep(0.2)
        assert made.attempted == [b"1"]


async def test_a_delayed_job_that_a_look_found_is_looked_for_in_time(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        made.store.add("1", delay_s=100.0)
        made.consumer.look()
        await asyncio.sleep(100.1)
        assert made.attempted == [b"1"]


async def test_of_several_delayed_jobs_the_earliest_counts(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        made.consumer.look()
        await made.settle_down()
        for job_id, delay_s in (("late", 500.0), ("early", 50.0), ("middle", 200.0)):
            made.store.add(job_id, delay_s=delay_s)
            await made.settle_down()
        await asyncio.sleep(50.1)
        assert made.attempted == [b"early"]
        await asyncio.sleep(450.1)
        assert made.attempted == [b"early", b"middle", b"late"]


async def test_a_job_delayed_for_days_is_still_looked_for(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        made.store.add("1", delay_s=3 * 86_400.0)
        made.consumer.look()
        await asyncio.sleep(3 * 86_400.0 + 1)
        assert made.attempted == [b"1"]


async def test_while_a_delayed_job_is_awaited_a_marker_still_wakes(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        made.store.add("later", delay_s=1000.0)
        made.consumer.look()
        await made.settle_down()
        made.store.add("now")
        await made.until(lambda: made.attempted == [b"now"])


async def test_a_rate_limit_holds_until_it_is_over(clock: FakeClock) -> None:
    async with bench(clock, 5, limiter=Limiter(2, 10_000)) as made:
        made.endpoints.open()
        for number in range(5):
            made.store.add(str(number))
        made.consumer.look()
        await asyncio.sleep(9.9)
        assert len(made.attempted) == 2
        await asyncio.sleep(0.2)
        assert len(made.attempted) == 4
        await asyncio.sleep(10.1)
        assert len(made.attempted) == 5


async def test_nothing_wakes_a_limited_consumer_before_its_time(clock: FakeClock) -> None:
    async with bench(clock, 5, limiter=Limiter(1, 10_000)) as made:
        made.endpoints.open()
        made.store.add("1")
        made.store.add("2")
        made.consumer.look()
        await asyncio.sleep(1)
        calls = len(made.store.calls)
        for _ in range(20):
            made.store.add("more")
            made.consumer.look()
            await asyncio.sleep(0.4)
        assert len(made.store.calls) == calls
        assert made.consumer.heard_since(asyncio.get_running_loop().time()), "there is a reason not to look"


async def test_a_limit_is_not_trusted_for_longer_than_half_a_minute(clock: FakeClock) -> None:
    async with bench(clock, limiter=Limiter(1, 3_600_000)) as made:
        made.endpoints.open()
        made.store.add("1")
        made.store.add("2")
        made.consumer.look()
        await asyncio.sleep(1)
        made.store.lift_limit()
        await asyncio.sleep(30)
        assert made.attempted == [b"1", b"2"]


async def test_a_gate_that_refuses_holds_jobs_up_and_those_in_flight_go_on(clock: FakeClock) -> None:
    async with bench(clock, 4) as made:
        begun: list[float] = []

        def three_of_them() -> bool:
            begun.append(clock())
            return len(begun) <= 3

        made.gate = three_of_them
        for number in range(8):
            made.store.add(str(number))
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 3)
        await asyncio.sleep(1.0)
        assert made.outbound.in_flight == len(made.consumer.slots) == 3
        assert len(begun) == pytest.approx(100, abs=15)  # it asks a hundred times a second, and not without end
        made.endpoints.open()
        await made.until(lambda: len(made.store.completed) == 3)
        made.gate = lambda: True
        await made.until(lambda: len(made.store.completed) == 8, 0.1)
        await made.settle_down()
        assert made.waits.watched == {"orders"}


async def test_asking_again_does_not_put_off_the_end_of_a_rate_limit(clock: FakeClock) -> None:
    async with bench(clock, 2, limiter=Limiter(max=1, duration=1000)) as made:
        made.endpoints.open()
        for number in range(2):
            made.store.add(str(number))
        made.consumer.look()
        await made.until(lambda: made.store.completed)
        await made.settle_down()
        made.gate = lambda: False
        for _ in range(50):
            made.consumer.look()
            await asyncio.sleep(0.01)
        made.gate = lambda: True
        await made.until(lambda: len(made.store.completed) == 2, 0.6)


async def test_a_delayed_job_does_not_put_off_the_end_of_a_rate_limit(clock: FakeClock) -> None:
    """One slot waits for a marker, another one runs into the limit; then a job is added for tomorrow."""
    async with bench(clock, 2, limiter=Limiter(2, 10_000)) as made:
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: made.waits.watched == {"orders"} and made.outbound.in_flight == 1)
        made.store.use_limit_up()
        made.endpoints.open()
        await made.until(lambda: made.store.completed)
        made.store.add("tomorrow", delay_s=86_400.0)
        await made.settle_down()
        made.store.add("2")
        for _ in range(3):
            await asyncio.sleep(5)
            made.consumer.look()  # the poll
        assert made.attempted == [b"1", b"2"]


async def test_an_answer_from_after_a_limit_does_not_make_a_consumer_deaf(clock: FakeClock) -> None:
    """A slot settles in the moment the limit ends, and hears that the next job is for tomorrow."""
    async with bench(clock, 2, limiter=Limiter(2, 10_000)) as made:
        made.store.add("1")
        made.store.add("2")
        made.store.add("tomorrow", delay_s=86_400.0)
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 2)
        made.endpoints.answer(b"1")  # its slot runs into the limit
        await made.settle_down()
        made.store.lift_limit()
        made.endpoints.answer(b"2")  # its slot does not
        await made.settle_down()
        made.endpoints.open()
        made.store.add("3")
        for _ in range(4):
            await asyncio.sleep(10)
            made.consumer.look()  # the poll
        assert made.attempted == [b"1", b"2", b"3"]


async def test_a_lost_lease_breaks_the_attempt_off_and_writes_nothing(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        made.store.steal(b"1")
        calls = len(made.store.calls)
        with capture_logs() as logs:
            lose(made, b"1")
            await made.settle_down()
        assert made.outbound.in_flight == 0
        assert [request.body for request in made.outbound.broken_off] == [b"1"]
        assert set(made.store.calls[calls:]) <= {"take"}
        assert made.store.active[b"1"][0] == b"thief:1"
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["lease.lost"]


async def test_after_a_lost_lease_the_slot_goes_on(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("1")
        made.store.add("2")
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        made.store.steal(b"1")
        lose(made, b"1")
        await made.until(lambda: made.attempted == [b"1", b"2"])
        made.endpoints.open()
        await made.until(lambda: made.store.completed.keys() == {b"2"})


async def test_a_job_that_comes_again_after_an_unanswered_settlement_has_another_token(clock: FakeClock) -> None:
    """The try without an answer may still be carried out, and must find another token than its own."""
    async with bench(clock) as made:
        made.store.add("1", opts={"attempts": 2})
        made.store.break_next("retry", carried_out=False)
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        first, _ = made.store.active[b"1"]
        made.endpoints.answer(b"1", answered(500))
        await made.until(lambda: made.attempted == [b"1", b"1"])
        second, _ = made.store.active[b"1"]
        assert first != second


async def test_a_job_that_comes_again_after_an_unanswered_release_has_another_token(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("1")
        made.store.break_next("release", carried_out=False)
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        first, _ = made.store.active[b"1"]
        made.endpoints.answer(b"1", ConnectFailed("EMFILE", "no descriptor", 0.0, exhausted=True))
        await made.until(lambda: made.attempted == [b"1", b"1"], within_s=3)
        second, _ = made.store.active[b"1"]
        assert first != second


async def test_only_the_attempt_of_the_lost_lease_is_broken_off(clock: FakeClock) -> None:
    async with bench(clock, 3) as made:
        for number in range(3):
            made.store.add(str(number))
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 3)
        lose(made, b"1")
        await made.settle_down()
        assert [request.body for request in made.outbound.broken_off] == [b"1"]
        assert made.outbound.in_flight == 2


async def test_a_second_lost_lease_does_not_interrupt_the_end_of_the_first(clock: FakeClock) -> None:
    waits: list[str] = []

    class Recording(Executor):
        """Waits once more behind an attempt that was broken off, as a delivery does for its ledger."""

        async def execute(self, slot: Slot, lease: Lease, may_lease: Callable[[], bool]) -> Next | None:
            result = await super().execute(slot, lease, may_lease)
            if lease.lost:
                kept = await self._until_broken_off(slot, lease, asyncio.sleep(5, "recorded"))
                waits.append(f"{lease.job_id.decode()} {kept}")
            return result

    async with bench(clock, 3, executor=Recording) as made:
        for number in range(3):
            made.store.add(str(number))
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 3)
        lose(made, b"0")
        await made.settle_down()
        lose(made, b"1")
        lose(made, b"0")
        await made.settle_down()
        lose(made, b"2")
        await made.until(lambda: len(waits) == 3, within_s=10)
    assert sorted(waits) == ["0 recorded", "1 recorded", "2 recorded"]


async def test_a_lease_lost_while_its_attempt_ends_is_not_settled(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        made.store.steal(b"1")
        made.endpoints.answer(b"1")
        lose(made, b"1")
        await made.settle_down()
        assert made.store.completed == {}
        assert "release" not in made.store.calls


async def test_a_stopped_consumer_leases_nothing_more(clock: FakeClock) -> None:
    async with bench(clock, 2) as made:
        for number in range(4):
            made.store.add(str(number))
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 2)
        made.consumer.stop()
        made.endpoints.open()
        await made.consumer.drained()
        assert made.store.completed.keys() == {b"0", b"1"}
        assert list(made.store.waiting) == [b"2", b"3"]
        assert made.waits.watched == set()
        made.consumer.look()
        await asyncio.sleep(100)
        assert made.store.active == {}


async def test_a_lease_that_is_on_its_way_to_a_stopped_consumer_is_given_back(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        made.store.add("1")
        made.store.hold_answers()
        made.consumer.look()
        await made.until(lambda: b"1" in made.store.active)
        made.consumer.stop()
        made.store.let_answers_go()
        await made.consumer.drained()
        assert (made.store.released, made.attempted) == ([b"1"], [])
        assert list(made.store.waiting) == [b"1"]


async def test_a_lease_that_comes_with_a_settling_to_a_stopped_consumer_is_given_back(clock: FakeClock) -> None:
    async with bench(clock) as made:
        for job_id in ("1", "2"):
            made.store.add(job_id)
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        made.store.hold_answers()
        made.endpoints.open()
        await made.until(lambda: b"2" in made.store.active)
        made.consumer.stop()
        made.store.let_answers_go()
        await made.consumer.drained()
        assert (made.store.completed.keys(), made.store.released) == ({b"1"}, [b"2"])
        assert made.attempted == [b"1"]


async def test_a_job_of_a_scheduler_that_is_about_to_begin_at_a_stopped_consumer_is_given_back(
    clock: FakeClock,
) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        made.store.add("1", fields={b"rjk": b"nightly"})
        made.store.answer_after_s = lambda: 0.1
        made.consumer.look()
        await made.until(lambda: made.store.scheduled)
        made.consumer.stop()
        await made.consumer.drained()
        assert (made.store.released, made.attempted) == ([b"1"], [])


async def test_a_stopped_consumer_forgets_what_it_had_planned(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("1", delay_s=10.0)
        made.consumer.look()
        await made.settle_down()
        made.consumer.stop()
        calls = len(made.store.calls)
        await asyncio.sleep(100)
        assert len(made.store.calls) == calls


async def test_a_failed_job_of_a_stopped_consumer_is_not_followed_by_another_look(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("1", opts={"attempts": 5})
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        made.consumer.stop()
        made.endpoints.open(answered(500))
        await made.consumer.drained()
        assert list(made.store.waiting) == [b"1"]
        assert made.store.calls == ["take", "retry"]


async def test_a_consumer_that_ends_lets_its_connections_go(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        made.consumer.stop()
        assert not made.outbound.pools[0].closed
        made.endpoints.open()
        await made.consumer.drained()
        assert made.outbound.pools[0].closed


async def test_an_idle_consumer_that_is_stopped_lets_its_connections_go_at_once(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: made.store.completed)
        await made.settle_down()
        made.consumer.stop()
        assert made.outbound.pools[0].closed


async def test_abandoned_jobs_go_back_to_the_head_without_an_attempt(clock: FakeClock) -> None:
    async with bench(clock, 2) as made:
        for number in range(4):
            made.store.add(str(number), opts={"attempts": 1})
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 2)
        made.consumer.stop()
        await made.consumer.abandon()
        assert set(list(made.store.waiting)[:2]) == {b"0", b"1"}
        assert list(made.store.waiting)[2:] == [b"2", b"3"]
        assert all(b"atm" not in job for job in made.store.jobs.values())
        assert made.store.active == {}
        assert made.consumer.slots == set()


async def test_a_stall_is_counted_also_when_the_grace_ends_at_the_same_moment(clock: FakeClock) -> None:
    """The worker vanishes, and before its slot has run again the instance breaks off what is in flight."""
    async with bench(clock) as made:
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        made.consumer.stop()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(made.consumer.abandon(stalled=True))
            tasks.create_task(made.consumer.abandon())
        assert made.store.jobs[b"1"][b"stc"] == b"1"
        assert made.store.released == [b"1"]


async def test_a_lease_that_is_lost_while_its_stall_is_counted_is_not_given_back(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        made.consumer.stop()
        made.store.go_away()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(made.consumer.abandon(stalled=True))
            await made.settle_down()
            lose(made, b"1")
            made.store.come_back()
        assert "count_stall" in made.store.calls
        assert "release" not in made.store.calls


async def test_a_job_that_arrives_while_abandoning_goes_back_too(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("1")
        made.store.hold_answers()
        made.consumer.look()
        await made.settle_down()
        made.consumer.stop()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(made.consumer.abandon())
            await made.settle_down()
            made.store.let_answers_go()
        assert list(made.store.waiting) == [b"1"]
        assert made.attempted == []


async def test_a_job_that_is_being_settled_is_left_to_finish(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        made.store.hold_answers()
        made.endpoints.open()
        await made.settle_down()
        made.consumer.stop()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(made.consumer.abandon())
            await made.settle_down()
            made.store.let_answers_go()
        assert made.store.completed.keys() == {b"1"}
        assert made.store.released == []


async def test_a_look_that_fails_is_tried_again_soon(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        made.store.add("1")
        made.store.go_away()
        made.consumer.look()
        await asyncio.sleep(10)
        made.store.come_back()
        await made.until(lambda: made.store.completed)
        assert 20 <= made.store.calls.count("take") <= 60, "a few times a second, not in a busy loop"


async def test_a_consumer_is_not_heard_of_while_the_store_is_away(clock: FakeClock) -> None:
    async with bench(clock) as made:
        loop = asyncio.get_running_loop()
        made.consumer.look()
        await made.settle_down()
        before = loop.time()
        assert made.consumer.heard_since(before)
        made.store.go_away()
        await asyncio.sleep(100)
        made.consumer.look()
        await made.settle_down()
        assert not made.consumer.heard_since(before + 1)


@pytest.mark.parametrize("error", [None, StoreTimeout()])
async def test_a_token_whose_take_had_no_answer_is_doubtful(clock: FakeClock, error: Any) -> None:
    async with bench(clock) as made:
        made.store.add("1")
        made.store.break_next("take", carried_out=True, error=error)
        made.consumer.look()
        await made.settle_down()
        (token,) = made.consumer.in_doubt
        assert made.store.active[b"1"][0] == token


async def test_a_doubtful_token_is_not_used_again(clock: FakeClock) -> None:
    async with bench(clock, 3) as made:
        made.endpoints.open()
        made.store.add("1")
        made.store.break_next("take", carried_out=True)
        made.consumer.look()
        await made.settle_down()
        for number in range(20):
            made.store.add(f"more-{number}")
        await made.until(lambda: len(made.store.completed) == 20)
        assert made.store.active.keys() == {b"1"}
        (token,) = made.consumer.in_doubt
        assert made.store.active[b"1"][0] == token


async def test_an_adopted_lease_is_worked_on(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        made.store.add("1")
        made.store.break_next("take", carried_out=True)
        made.consumer.look()
        await made.settle_down()
        (lease,) = await made.store.adopt(list(made.consumer.in_doubt))
        made.consumer.adopt(lease)
        await made.until(lambda: made.store.completed.keys() == {b"1"})
        assert made.consumer.in_doubt == {}


async def test_an_adopted_lease_whose_attempt_was_made_is_given_back(clock: FakeClock) -> None:
    """Its lease was given up before its result could be written: a start of a job makes one request."""
    async with bench(clock) as made:
        made.endpoints.open()
        made.store.add("1")
        made.store.break_next("complete", carried_out=False, times=20)
        made.consumer.look()
        await made.until(lambda: made.store.calls.count("complete") == 3, within_s=5.0)
        made.consumer.lose(made.consumer.in_flight[0])
        await made.until(lambda: made.consumer.in_doubt, within_s=5.0)
        made.store._breaks.clear()
        made.gate = lambda: False
        assert made.attempted == [b"1"]
        (lease,) = await made.store.adopt(list(made.consumer.in_doubt))
        made.consumer.adopt(lease)
        await made.settle_down()
        assert (made.store.released, made.attempted) == ([b"1"], [b"1"])


async def test_an_adopted_lease_of_a_stopped_consumer_is_given_back(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.endpoints.open()
        made.store.add("1")
        made.store.break_next("take", carried_out=True)
        made.consumer.look()
        await made.settle_down()
        made.consumer.stop()
        (lease,) = await made.store.adopt(list(made.consumer.in_doubt))
        made.consumer.adopt(lease)
        await made.consumer.drained()
        assert (made.store.released, made.attempted) == ([b"1"], [])
        assert all(pool.closed for pool in made.outbound.pools)


async def test_adopting_does_not_go_beyond_the_limit(clock: FakeClock) -> None:
    """An endpoint that was promised one job at a time gets one at a time, whatever Redis' connections do."""
    async with bench(clock) as made:
        made.store.add("1")
        made.store.add("2")
        made.store.break_next("take", carried_out=True)
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        (lease,) = await made.store.adopt(list(made.consumer.in_doubt))
        made.consumer.adopt(lease)
        await made.settle_down()
        assert made.outbound.most_in_flight == 1
        made.endpoints.open()
        await made.until(lambda: made.store.completed.keys() == {b"1", b"2"})
        assert made.outbound.most_in_flight == 1


async def test_an_adopted_lease_waiting_for_a_slot_is_given_back_when_abandoned(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("1")
        made.store.add("2")
        made.store.break_next("take", carried_out=True)
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        (lease,) = await made.store.adopt(list(made.consumer.in_doubt))
        made.consumer.adopt(lease)
        assert len(made.consumer.in_flight) == 2
        made.consumer.stop()
        await made.consumer.abandon()
        assert made.store.active == {}
        assert len(made.attempted) == 1


async def test_an_adopted_lease_lost_while_waiting_for_a_slot_is_never_sent(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("1")
        made.store.add("2")
        made.store.break_next("take", carried_out=True)
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        (lease,) = await made.store.adopt(list(made.consumer.in_doubt))
        made.consumer.adopt(lease)
        lose(made, lease.job_id)
        made.endpoints.open()
        await made.until(lambda: made.store.completed)
        await made.settle_down()
        assert lease.job_id not in made.attempted


async def test_a_delayed_job_that_is_due_while_every_slot_works_is_left_for_others(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("later", delay_s=5)
        made.consumer.look()
        await made.settle_down()
        made.store.add("1")
        await made.until(lambda: made.outbound.in_flight == 1)
        await asyncio.sleep(5.1)
        assert made.waits.markers == {"orders": 0.0}
        made.endpoints.open()
        await made.until(lambda: made.store.completed.keys() == {b"1", b"later"})


async def test_delayed_jobs_known_to_a_stopping_consumer_are_left_for_others(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.store.add("later", delay_s=60)
        at_s = clock() + 60
        made.consumer.look()
        await made.settle_down()
        made.consumer.stop()
        await made.settle_down()
        assert made.waits.markers == {"orders": at_s}


async def test_a_slot_never_has_the_token_of_another(clock: FakeClock) -> None:
    async with bench(clock, 20) as made:
        for number in range(60):
            made.store.add(str(number))
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 20)
        tokens = [token for token, _ in made.store.active.values()]
        assert len(set(tokens)) == 20
        assert all(token.startswith(b"instance:") for token in tokens)


async def test_a_job_that_breaks_its_slot_breaks_nothing_else(clock: FakeClock) -> None:
    async with bench(clock, 2) as made:

        async def broken(_: Any) -> Outcome:
            raise ZeroDivisionError

        made.outbound.answering = broken
        made.store.add("1")
        made.consumer.look()
        with capture_logs() as logs:
            await made.settle_down()
        assert [line["event"] for line in logs if line["log_level"] == "error"] == ["slot.failed"]
        made.outbound.answering = made.endpoints
        made.endpoints.open()
        made.store.add("2")
        await made.until(lambda: made.store.completed.keys() == {b"2"})


async def test_a_process_shutdown_ends_its_consumers_without_errors(clock: FakeClock) -> None:
    """Something else has failed for good: a slot that is cancelled starts nothing."""
    errors: list[type[Exception]] = []
    try:
        async with asyncio.TaskGroup() as tasks:
            made = Bench(clock, tasks, 2, None)
            made.store.hold_answers()
            made.consumer.look()
            await made.settle_down()
            made.consumer.look()
            raise ZeroDivisionError
    except ExceptionGroup as group:
        errors = [type(error) for error in group.exceptions]
    with warnings.catch_warnings(action="ignore"):
        gc.collect()  # what was begun and not run complains here, and not in some other test
    assert errors == [ZeroDivisionError]
    assert made.waits.watched == set()


async def test_a_slot_that_ends_leaves_no_task_behind(clock: FakeClock) -> None:
    async with bench(clock, 10) as made:
        made.endpoints.open()
        before = len(asyncio.all_tasks())
        for number in range(50):
            made.store.add(str(number))
        made.consumer.look()
        await made.until(lambda: len(made.store.completed) == 50)
        await made.settle_down()
        assert len(asyncio.all_tasks()) == before


class Conditions:
    """What one example is like: how long things take, when a poll comes, and what goes wrong."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.longest_store_answer_s = self.random.choice((0.0, 0.02))
        self.longest_endpoint_answer_s = self.random.choice((0.0, 0.02, 2.0))
        self.breaks = self.random.random() < 0.3
        self.refuses = self.random.choice((0.0, 0.0, 0.3))

    def may_begin(self) -> bool:
        return self.random.random() >= self.refuses

    def store_answer_s(self) -> float:
        return self.random.random() * self.longest_store_answer_s

    async def endpoint(self, _: Any) -> Outcome:
        await asyncio.sleep(self.random.random() * self.longest_endpoint_answer_s)
        return answered(200 if self.random.random() < 0.8 else 500)

    async def pause(self) -> None:
        await asyncio.sleep(self.random.choice((0.0, 0.0, 0.001, self.random.random() * 0.03)))


async def _round(made: Bench, conditions: Conditions, limit: int, name: str) -> None:
    """An idle consumer, a poll or none, and a few jobs in the same moment: they are finished without another poll."""
    chance = conditions.random
    if chance.random() < 0.7:
        made.consumer.look()
    if conditions.breaks and chance.random() < 0.3:
        call = chance.choice(("take", "complete", "retry", "fail"))
        made.store.break_next(call, carried_out=False, times=chance.randint(1, 3))
    finished = len(made.store.completed) + len(made.store.failed)
    jobs = chance.randint(1, 3 * limit)
    for number in range(jobs):
        await conditions.pause()
        delay_s = chance.choice((0.0, 0.0, 0.0, 0.3))
        made.store.add(f"{name}-{number}", opts={"attempts": 3}, delay_s=delay_s)
    # Three attempts for each job that shares a slot, and pauses for what breaks.
    turns_of_a_slot = (jobs + limit - 1) // limit * 3
    most_s = 0.5 + turns_of_a_slot * (conditions.longest_endpoint_answer_s + 0.05) + (5.0 if conditions.breaks else 0.0)
    await until(lambda: len(made.store.completed) + len(made.store.failed) == finished + jobs, most_s, 0.02)


@given(seed=st.integers(0, 2**32), limit=st.integers(1, 4))
def test_no_wake_is_lost_and_slots_stay_bounded_under_random_failures(seed: int, limit: int) -> None:
    async def example() -> None:
        clock, conditions = FakeClock(), Conditions(seed)
        with clock.driving():
            async with bench(clock, limit) as made:
                made.store.answer_after_s = conditions.store_answer_s
                made.outbound.answering = conditions.endpoint
                made.gate = conditions.may_begin
                made.consumer.look()
                await made.settle_down()
                for number in range(8):
                    await _round(made, conditions, limit, str(number))
                await asyncio.sleep(1.0)
                assert made.outbound.most_in_flight <= limit
                assert made.store.active == {}
                assert made.consumer.slots == set()
                assert made.waits.watched == {"orders"}

    asyncio.run(example())


@pytest.mark.parametrize("stalls", [False, True])
async def test_a_job_whose_lock_has_lapsed_is_settled_unless_it_has_stalled(clock: FakeClock, stalls: bool) -> None:
    async with bench(clock) as made:
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        await asyncio.sleep(LOCK_S + 1)
        for _ in range(2 * stalls):
            await made.store.recover_stalled()
        made.endpoints.open()
        await made.until(lambda: made.store.completed.keys() == {b"1"})
        assert made.attempted == [b"1"] * (1 + stalls)


async def test_a_cancelled_job_is_broken_off_frees_its_slot_and_nothing_is_written(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        for job_id in ("1", "2"):
            made.store.add(job_id)
        made.consumer.look()
        await made.until(lambda: made.attempted == [b"1"])
        made.store.lapse(b"1")
        assert made.consumer.cancel(b"1")
        await made.until(lambda: made.attempted == [b"1", b"2"])
        assert made.store.completed == {}
        assert not made.consumer.cancel(b"1")


async def test_a_job_that_is_cancelled_while_its_lease_is_on_its_way_is_not_sent(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        made.store.answer_after_s = lambda: 0.05
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: b"1" in made.store.active)
        del made.store.active[b"1"], made.store.jobs[b"1"]
        assert not made.consumer.cancel(b"1")
        made.shared.cancelled.note("orders", b"1")
        made.store.add("2")
        await made.until(lambda: made.attempted == [b"2"], 5.0)
        # Noted for a moment only, and believed only where the lock is gone too.
        made.endpoints.open()
        made.shared.cancelled.note("orders", b"3")
        made.store.add("3")
        await made.until(lambda: made.attempted == [b"2", b"3"], 5.0)


async def test_cancellations_of_long_ago_are_forgotten(clock: FakeClock) -> None:
    async with bench(clock) as made:
        made.shared.cancelled.note("orders", b"1")
        assert made.shared.cancelled.has("orders", b"1")
        await asyncio.sleep(6.0)
        assert not made.shared.cancelled.has("orders", b"1")
        for number in range(1500):
            made.shared.cancelled.note("orders", b"%d" % number)
        assert len(made.shared.cancelled) <= 1001
