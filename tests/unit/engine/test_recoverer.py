import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from tests.unit.engine.support import LOCK_S, POLICY, Bench, bench
from toril.core.errors import StoreUnavailable
from toril.core.lease import Lease
from toril.engine.consumer import Consumer
from toril.engine.queue_survey import EVERY_QUEUE, QueueSurvey
from toril.engine.recoverer import Recoverer
from toril.telemetry.measures import UNMEASURED
from toril.testing import FakeClock, FakePresence, FakeQueueSurvey


def recoverer(*benches: Bench, presence: FakePresence | None = None, survey: QueueSurvey = EVERY_QUEUE) -> Recoverer:
    return Recoverer(
        lambda: [made.consumer for made in benches], POLICY, presence or FakePresence(), UNMEASURED, survey
    )


class Away:
    """A survey without an answer."""

    async def with_jobs(self, queues: Sequence[str]) -> Mapping[str, float]:
        """Fail."""
        raise StoreUnavailable

    async def to_check(self, queues: Sequence[str]) -> Collection[str]:
        """Fail."""
        raise StoreUnavailable


async def test_a_job_whose_wake_got_lost_is_found_by_the_next_poll(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.endpoints.open()
        made.consumer.look()
        await made.settle_down()
        made.waits.unwatch("orders")  # another instance took the marker, and died
        made.store.add("1")
        running = tasks.create_task(recoverer(made).run())
        await asyncio.sleep(POLICY.poll_interval_s * 1.1)
        assert made.store.completed.keys() == {b"1"}
        running.cancel()


async def test_every_consumer_is_polled_once_per_interval(clock: FakeClock) -> None:
    benches: list[Bench] = []

    async def polled(left: int) -> None:
        if left:
            async with bench(clock) as made:
                made.consumer.queue = f"queue-{left}"
                benches.append(made)
                await polled(left - 1)
            return
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(recoverer(*benches).run())
            await asyncio.sleep(POLICY.poll_interval_s * 10)
            takes = [made.store.calls.count("take") for made in benches]
            assert all(9 <= count <= 11 for count in takes), takes
            running.cancel()

    await polled(60)


async def test_polls_are_spread_over_the_interval(clock: FakeClock) -> None:
    times: list[float] = []
    loop = asyncio.get_running_loop()

    class Polled:
        stopped = False
        full = False
        in_flight: Iterable[object] = ()
        in_doubt: Iterable[object] = ()
        slots: Iterable[object] = ()

        def __init__(self, queue: str) -> None:
            self.queue = queue

        def look(self) -> None:
            times.append(loop.time())

    consumers = [Polled(f"queue-{number}") for number in range(1000)]
    sweeping = Recoverer(lambda: consumers, POLICY, FakePresence())  # type: ignore[arg-type,return-value]
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(sweeping._polling())
        await asyncio.sleep(POLICY.poll_interval_s - 0.01)
        assert len(times) == 1000
        assert times[-1] - times[0] > POLICY.poll_interval_s * 0.9
        assert max(times.count(at) for at in set(times)) <= 50
        running.cancel()


async def test_an_idle_queue_is_neither_looked_at_nor_checked_and_counts_as_heard_from(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        survey = FakeQueueSurvey({"orders": made.store}, clock)
        running = tasks.create_task(recoverer(made, survey=survey).run())
        await asyncio.sleep(POLICY.stalled_interval_s * 3)
        assert made.store.calls == []
        assert made.consumer.heard_since(asyncio.get_running_loop().time() - POLICY.poll_interval_s * 1.1)
        running.cancel()


async def test_a_surveyed_queue_whose_wake_got_lost_is_looked_at_by_the_next_poll(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.endpoints.open()
        survey = FakeQueueSurvey({"orders": made.store}, clock)
        running = tasks.create_task(recoverer(made, survey=survey).run())
        await made.settle_down()
        made.store.add("1")
        await asyncio.sleep(POLICY.poll_interval_s * 1.1)
        assert made.store.completed.keys() == {b"1"}
        running.cancel()


async def test_a_delayed_job_that_only_a_survey_knows_of_is_looked_for_in_time(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.endpoints.open()
        made.store.add("1", delay_s=POLICY.poll_interval_s * 2.5)
        survey = FakeQueueSurvey({"orders": made.store}, clock)
        running = tasks.create_task(recoverer(made, survey=survey).run())
        await asyncio.sleep(POLICY.poll_interval_s * 2.5 - 0.1)
        assert made.store.calls == []
        await made.until(lambda: made.store.completed, 0.2)
        running.cancel()


async def test_a_queue_with_a_job_in_a_slot_is_shown_to_others_though_nothing_waits_in_it(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        presence = FakePresence()
        survey = FakeQueueSurvey({"orders": made.store}, clock)
        running = tasks.create_task(recoverer(made, presence=presence, survey=survey).run())
        await asyncio.sleep(POLICY.poll_interval_s * 1.1)
        assert presence.shown == {"orders"}
        running.cancel()


async def test_without_an_answer_to_the_survey_every_queue_is_looked_at(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(recoverer(made, survey=Away()).run())
        await asyncio.sleep(POLICY.stalled_interval_s * 1.1)
        assert {"take", "recover_stalled"} <= set(made.store.calls)
        running.cancel()


async def test_consumers_of_one_queue_are_polled_by_one_look_of_one_that_has_room(clock: FakeClock) -> None:
    async with bench(clock) as busy, bench(clock) as free, bench(clock) as other, asyncio.TaskGroup() as tasks:
        busy.store.add("1")
        busy.consumer.look()
        await busy.until(lambda: busy.outbound.in_flight == 1)
        made = [busy, free, other]
        running = tasks.create_task(Recoverer(lambda: [b.consumer for b in made], POLICY, busy.presence).run())
        before = [b.store.calls.count("take") for b in made]
        await asyncio.sleep(POLICY.poll_interval_s * 10.5)
        polled = [b.store.calls.count("take") - count for b, count in zip(made, before, strict=True)]
        assert polled[0] == 0
        assert 9 <= polled[1] <= 11
        assert polled[2] == 0
        running.cancel()


@pytest.mark.parametrize("surveyed", [False, True])
async def test_a_job_whose_worker_died_goes_back_to_waiting(surveyed: bool, clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.endpoints.open()
        made.store.add("1")
        await made.store.take(b"dead:1")
        survey = FakeQueueSurvey({"orders": made.store}, clock) if surveyed else EVERY_QUEUE
        running = tasks.create_task(recoverer(made, survey=survey).run())
        with capture_logs() as logs:
            await asyncio.sleep(LOCK_S + 2 * POLICY.stalled_interval_s + 1)
        assert made.store.completed.keys() == {b"1"}
        assert [line["job_id"] for line in logs if line["event"] == "job.stalled"] == ["1"]
        running.cancel()


async def test_an_abandoned_job_goes_back_at_once_when_a_consumer_starts(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.endpoints.open()
        made.store.add("1")
        await made.store.take(b"dead:1")
        made.store.lapse(b"1")
        sweeping = recoverer(made)
        running = tasks.create_task(sweeping.run())
        with capture_logs() as logs:
            sweeping.started(made.consumer)
            await made.until(lambda: made.store.completed)
        assert made.store.jobs[b"1"][b"stc"] == b"1"
        assert [line["job_id"] for line in logs if line["event"] == "job.stalled"] == ["1"]
        running.cancel()


async def test_a_job_locked_when_a_consumer_starts_goes_back_once_its_lock_expires(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.endpoints.open()
        made.store.add("1")
        await made.store.take(b"dead:1")
        sweeping = recoverer(made)
        running = tasks.create_task(sweeping.run())
        sweeping.started(made.consumer)
        await asyncio.sleep(LOCK_S - 1)
        assert made.store.completed == {}
        with capture_logs():
            await asyncio.sleep(2)
        assert made.store.completed.keys() == {b"1"}
        running.cancel()


async def test_a_job_of_a_live_worker_stays_where_it_is_when_a_consumer_starts(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.store.add("1")
        lease = await made.store.take(b"alive:1")
        assert isinstance(lease, Lease)
        sweeping = recoverer(made)
        running = tasks.create_task(sweeping.run())
        sweeping.started(made.consumer)
        for _ in range(10):
            await asyncio.sleep(LOCK_S / 3)
            assert await made.store.extend([lease]) == set()
        assert list(made.store.active) == [b"1"]
        assert made.store.calls.count("recover_abandoned") == 2
        running.cancel()


async def test_abandoned_jobs_are_looked_for_again_while_redis_is_away(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.endpoints.open()
        made.store.add("1")
        await made.store.take(b"dead:1")
        made.store.lapse(b"1")
        made.store.break_next("recover_abandoned", carried_out=False, times=3)
        made.store.break_next("recover_stalled", carried_out=False, times=1)
        sweeping = recoverer(made)
        running = tasks.create_task(sweeping.run())
        with capture_logs():
            sweeping.started(made.consumer)
            await asyncio.sleep(5)
        assert made.store.completed.keys() == {b"1"}
        running.cancel()


async def test_a_job_that_stalls_too_often_fails_without_another_attempt(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.endpoints.open()
        made.store.add("1", fields={b"stc": b"1"})
        await made.store.take(b"dead:1")
        running = tasks.create_task(recoverer(made).run())
        with capture_logs():
            await asyncio.sleep(LOCK_S + 2 * POLICY.stalled_interval_s + 1)
        assert made.store.failed == {b"1": "job stalled more than allowable limit"}
        assert made.attempted == []
        running.cancel()


async def test_a_doubtful_token_that_holds_a_job_is_adopted_soon(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.endpoints.open()
        running = tasks.create_task(recoverer(made).run())
        made.store.add("1")
        made.store.break_next("take", carried_out=True)
        made.consumer.look()
        with capture_logs():
            await made.until(lambda: made.store.completed.keys() == {b"1"}, 2.0)
        running.cancel()


async def test_a_job_that_a_lost_settlement_leased_is_adopted(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.endpoints.open()
        running = tasks.create_task(recoverer(made).run())
        for number in range(3):
            made.store.add(str(number))
        made.store.break_next("complete", carried_out=True)
        made.consumer.look()
        with capture_logs():
            await made.until(lambda: len(made.store.completed) == 3, 2.0)
        assert made.attempted.count(b"1") == 1
        running.cancel()


async def test_a_command_that_runs_late_is_found_as_well(clock: FakeClock) -> None:
    """The connection broke, Redis reads what was sent a while later: the job is leased by a token in doubt."""
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.endpoints.open()
        running = tasks.create_task(recoverer(made).run())
        made.store.break_next("take", carried_out=False)
        made.consumer.look()
        await made.settle_down()
        (token,) = made.consumer.in_doubt
        await asyncio.sleep(LOCK_S / 2)
        made.waits.unwatch("orders")
        made.store.add("1")
        await made.store.take(token)
        with capture_logs():
            await made.until(lambda: made.store.completed.keys() == {b"1"}, 2.0)
        running.cancel()


async def test_a_token_is_in_doubt_for_a_locks_length(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(recoverer(made).run())
        made.store.break_next("take", carried_out=False)
        made.consumer.look()
        await asyncio.sleep(LOCK_S - 1)
        assert len(made.consumer.in_doubt) == 1
        await asyncio.sleep(3)
        assert made.consumer.in_doubt == {}
        calls = made.store.calls.count("adopt")
        await asyncio.sleep(LOCK_S)
        assert made.store.calls.count("adopt") == calls
        running.cancel()


async def test_adoption_is_tried_again_while_the_store_is_away(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.endpoints.open()
        running = tasks.create_task(recoverer(made).run())
        made.store.add("1")
        made.store.break_next("take", carried_out=True)
        made.consumer.look()
        await made.settle_down()
        made.store.go_away()
        await asyncio.sleep(5)
        made.store.come_back()
        with capture_logs():
            await made.until(lambda: made.store.completed.keys() == {b"1"}, 2.0)
        running.cancel()


async def test_a_stopped_consumer_is_neither_polled_nor_swept(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(recoverer(made).run())
        made.consumer.stop()
        await asyncio.sleep(1)
        calls = list(made.store.calls)
        await asyncio.sleep(200)
        assert made.store.calls == calls
        running.cancel()


async def test_an_unavailable_store_does_not_stop_later_sweeps(clock: FakeClock) -> None:
    async with bench(clock) as made, asyncio.TaskGroup() as tasks:
        made.endpoints.open()
        running = tasks.create_task(recoverer(made).run())
        made.store.go_away()
        await asyncio.sleep(200)
        made.store.come_back()
        made.store.add("1")
        await made.until(lambda: made.store.completed, POLICY.poll_interval_s + 1)
        running.cancel()


async def test_a_queue_with_jobs_in_flight_stays_present(clock: FakeClock) -> None:
    presence = FakePresence()
    async with bench(clock) as busy, bench(clock) as idle, asyncio.TaskGroup() as tasks:
        busy.store.add("1")
        busy.consumer.look()
        idle.consumer.queue = "idle"
        await busy.until(lambda: busy.outbound.in_flight == 1)
        running = tasks.create_task(recoverer(busy, idle, presence=presence).run())
        await asyncio.sleep(POLICY.poll_interval_s)
        assert presence.shown == {"orders"}
        running.cancel()


async def test_without_consumers_the_recoverer_is_idle(clock: FakeClock) -> None:
    asked = 0

    def none() -> list[Consumer]:
        nonlocal asked
        asked += 1
        return []

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(Recoverer(none, POLICY, FakePresence()).run())
        await asyncio.sleep(100)
        assert asked < 300
        running.cancel()
