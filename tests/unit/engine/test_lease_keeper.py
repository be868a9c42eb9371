import asyncio

import pytest
from structlog.testing import capture_logs

from tests.unit.engine.support import LOCK_S, Bench, bench
from toril.core.destination import OutboundRequest
from toril.core.outcome import Outcome
from toril.engine.lease_keeper import LeaseKeeper
from toril.testing import FakeClock, answered


def keeper(*benches: Bench) -> LeaseKeeper:
    return LeaseKeeper(lambda: [made.consumer for made in benches], LOCK_S)


async def in_flight(made: Bench, jobs: int) -> None:
    for number in range(jobs):
        made.store.add(str(number))
    made.consumer.look()
    await made.until(lambda: made.outbound.in_flight == jobs)


async def test_locks_are_renewed_long_before_they_lapse(clock: FakeClock) -> None:
    async with bench(clock, 3) as made, asyncio.TaskGroup() as tasks:
        await in_flight(made, 3)
        running = tasks.create_task(keeper(made).run())
        for _ in range(60):
            await asyncio.sleep(1)
            left = [until_s - clock() for _, until_s in made.store.active.values()]
            assert len(left) == 3
            assert min(left) > LOCK_S / 3
        running.cancel()


async def test_all_locks_of_a_queue_are_renewed_in_one_call(clock: FakeClock) -> None:
    async with bench(clock, 10) as made:
        await in_flight(made, 10)
        await asyncio.sleep(LOCK_S / 2)
        await keeper(made).renew()
        assert made.store.calls.count("extend") == 1


async def test_a_fresh_lock_is_left_alone(clock: FakeClock) -> None:
    async with bench(clock) as made:
        await in_flight(made, 1)
        await keeper(made).renew()
        assert "extend" not in made.store.calls


async def test_an_idle_consumer_costs_no_call(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(keeper(made).run())
        await asyncio.sleep(10 * LOCK_S)
        assert made.store.calls == []
        running.cancel()


async def test_a_lock_that_is_not_ours_cancels_its_attempt_and_no_other(clock: FakeClock) -> None:
    async with bench(clock, 3) as made:
        await in_flight(made, 3)
        made.store.steal(b"1")
        await asyncio.sleep(LOCK_S / 2)
        with capture_logs():
            await keeper(made).renew()
            await made.settle_down()
        assert [request.body for request in made.outbound.broken_off] == [b"1"]
        assert made.store.active[b"1"][0] == b"thief:1"
        assert "release" not in made.store.calls
        made.endpoints.open()
        await made.until(lambda: made.store.completed.keys() == {b"0", b"2"})


async def test_while_redis_is_away_an_attempt_goes_on_as_long_as_its_lock_can_live(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        await in_flight(made, 1)
        running = tasks.create_task(keeper(made).run())
        made.store.go_away()
        with capture_logs():
            await asyncio.sleep(LOCK_S * 0.9)
            assert made.outbound.in_flight == 1
            await asyncio.sleep(LOCK_S * 0.5)
            assert made.outbound.in_flight == 0
        assert "release" not in made.store.calls
        running.cancel()


async def test_while_redis_is_away_an_attempt_that_has_ended_is_settled_also_after_its_lock_has_lapsed(
    clock: FakeClock,
) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        await in_flight(made, 1)
        running = tasks.create_task(keeper(made).run())
        made.store.go_away()
        with capture_logs():
            made.endpoints.answer(b"0")
            await asyncio.sleep(LOCK_S * 1.5)
            made.store.come_back()
            await made.until(lambda: made.store.completed.keys() == {b"0"})
        assert made.attempted == [b"0"]
        running.cancel()


async def test_a_renewal_that_fails_is_tried_again(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        await in_flight(made, 1)
        running = tasks.create_task(keeper(made).run())
        made.store.break_next("extend", carried_out=False, times=2)
        with capture_logs():
            await asyncio.sleep(3 * LOCK_S)
        assert made.outbound.in_flight == 1
        assert made.store.active.keys() == {b"0"}
        running.cancel()


async def test_one_queue_that_fails_does_not_keep_another_from_its_locks(clock: FakeClock) -> None:
    async with bench(clock) as broken, bench(clock) as sound:
        await in_flight(broken, 1)
        await in_flight(sound, 1)
        await asyncio.sleep(LOCK_S / 2)
        broken.store.go_away()
        with capture_logs():
            await keeper(broken, sound).renew()
        assert sound.store.active[b"0"][1] == pytest.approx(clock() + LOCK_S)


async def test_a_lease_that_was_settled_meanwhile_is_not_lost(clock: FakeClock) -> None:
    async with bench(clock) as made:
        await in_flight(made, 1)
        await asyncio.sleep(LOCK_S / 2)
        made.store.add("next")
        made.store.hold_answers()
        async with asyncio.TaskGroup() as tasks:
            made.endpoints.answer(b"0")
            await made.settle_down()
            tasks.create_task(keeper(made).renew())
            await made.settle_down()
            with capture_logs() as logs:
                made.store.let_answers_go()
                await made.settle_down()
        assert made.store.completed.keys() == {b"0"}
        assert [line for line in logs if line["event"] == "lease.lost"] == []
        assert made.attempted == [b"0", b"next"]
        assert made.outbound.broken_off == []


async def test_a_job_that_was_lost_and_taken_again_here_goes_on_under_its_new_lease(clock: FakeClock) -> None:
    """Had the new lease been given up with the old one, the job would have stalled again."""

    async def answering(request: OutboundRequest) -> Outcome:
        await asyncio.sleep(LOCK_S)
        return answered()

    async with bench(clock, 2) as made:
        made.outbound.answering = answering
        await in_flight(made, 1)
        made.store.lapse(b"0")
        for _ in range(2):
            await made.store.recover_stalled()
        made.consumer.look()
        await made.until(lambda: made.attempted == [b"0", b"0"])
        await asyncio.sleep(LOCK_S / 2)
        with capture_logs() as logs:
            await keeper(made).renew()
            await made.settle_down()
        assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["lease.lost"]
        assert len(made.outbound.broken_off) == 1
        await made.until(lambda: made.store.completed.keys() == {b"0"}, within_s=LOCK_S)
        assert made.store.jobs[b"0"][b"stc"] == b"1"


async def test_a_lock_counts_from_when_it_was_asked_for_where_the_answer_comes_late(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(keeper(made).run())
        made.store.add("0")
        made.store.add("1")
        made.store.answer_after_s = lambda: 0.65 * LOCK_S
        made.consumer.look()
        for job_id in (b"0", b"1"):  # the first one is taken, the second one comes with the settlement of the first
            await made.until(lambda: made.outbound.in_flight == 1, LOCK_S)
            for _ in range(40):
                await asyncio.sleep(LOCK_S / 20)
                assert made.store.active[job_id][1] > clock()
            made.endpoints.answer(job_id)
            await made.until(lambda: made.outbound.in_flight == 0, LOCK_S)
        running.cancel()
