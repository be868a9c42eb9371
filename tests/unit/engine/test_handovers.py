"""Jobs that an endpoint settles later, and the slots that they keep."""

import asyncio
from typing import Any

from tests.unit.engine.support import LOCK_S, Bench, bench
from tests.unit.engine.test_lease_keeper import keeper
from toril.core.errors import ConnectionLost, StoreUnavailable
from toril.core.lease import Lease
from toril.core.outcome import Answered
from toril.core.verdict import Complete
from toril.testing import FakeClock


def later(lease_ms: int | None = None) -> Answered:
    headers = [(b"toril-settle", b"later")]
    if lease_ms is not None:
        headers.append((b"toril-lease-ms", b"%d" % lease_ms))
    return Answered(202, "Accepted", headers, b"", 0.01)


async def hand_over(made: Bench, *jobs: str, lease_ms: int | None = None) -> None:
    """Add jobs that the endpoint settles later, and wait until it has said so."""
    made.endpoints.open(later(lease_ms))
    for job_id in jobs:
        made.store.add(job_id)
    made.consumer.look()
    await made.until(lambda: made.store.calls.count("hand_over") == len(jobs))


async def settle(made: Bench, job_id: bytes, token: bytes | None = None) -> Lease:
    """Complete a job by its lock token, as a call to some instance does."""
    held = made.store.active[job_id][0] if token is None else token
    lease = made.store._lease(job_id, held)
    await made.store.complete(lease, Complete(b"1"), fetch_next=False)
    return lease


async def test_a_handed_over_job_keeps_its_slot_and_its_lease(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        await hand_over(made, "1", lease_ms=600_000)
        made.store.add("2")
        await asyncio.sleep(599)
        assert made.attempted == [b"1"]
        assert list(made.store.active) == [b"1"]
        assert made.leased.until["orders"] >= clock()


async def test_the_slot_is_freed_at_once_when_this_instance_settles_the_job(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        await hand_over(made, "1")
        made.store.add("2")
        lease = await settle(made, b"1")
        made.endpoints.open(Answered(200, "OK", [], b"", 0.01))
        await made.handovers.settled(lease)
        await made.settle_down()
        assert made.attempted == [b"1", b"2"]
        assert set(made.store.completed) == {b"1", b"2"}


async def test_the_slot_is_freed_when_another_instance_settles_the_job(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        listening = made.tasks.create_task(made.handovers.run())
        await hand_over(made, "1")
        made.store.add("2")
        await settle(made, b"1")
        assert made.news.say is not None
        made.news.say("orders", b"7")  # of a job that this instance does not know
        made.news.say("orders", b"1")
        await made.settle_down()
        assert made.attempted == [b"1", b"2"]
        listening.cancel()


async def test_notifications_are_not_listened_for_before_a_first_handover(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        listening = made.tasks.create_task(made.handovers.run())
        await asyncio.sleep(60)
        assert made.news.say is None
        listening.cancel()


async def test_a_settlement_without_a_notification_is_noticed(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        await hand_over(made, "1", lease_ms=600_000)
        made.store.add("2")
        await settle(made, b"1")
        await made.until(lambda: made.attempted == [b"1", b"2"], within_s=21)


async def test_a_lease_that_runs_out_frees_the_slot_and_nothing_is_written(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        await hand_over(made, "1", lease_ms=2_000)
        made.store.add("2")
        await made.until(lambda: made.attempted == [b"1", b"2"], within_s=2.1)
        assert (made.store.completed, made.store.failed, made.store.released) == ({}, {}, [])
        assert b"1" in made.store.active  # until it is brought back


async def test_a_lease_that_was_extended_keeps_the_slot(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        await hand_over(made, "1", lease_ms=2_000)
        token, _ = made.store.active[b"1"]
        made.store.active[b"1"] = (token, clock() + 20)
        made.store.add("2")
        await asyncio.sleep(15)
        assert made.attempted == [b"1"]


async def test_the_next_job_gets_another_token(clock: FakeClock) -> None:
    """Or the endpoint could settle a job that it has lost, once that has come to the same slot again."""
    async with bench(clock, 1) as made:
        await hand_over(made, "1", lease_ms=2_000)
        first = made.store.active[b"1"][0]
        await asyncio.sleep(2.1)
        await made.store.recover_stalled()
        await made.store.recover_stalled()
        made.consumer.look()
        await made.until(lambda: made.attempted == [b"1", b"1"])
        assert made.store.active[b"1"][0] != first


async def test_only_the_endpoint_renews_a_handed_over_lease(clock: FakeClock) -> None:
    async with bench(clock, 2) as made:
        await hand_over(made, "1", lease_ms=90_000)
        await asyncio.sleep(LOCK_S)
        await keeper(made).renew()
        assert "extend" not in made.store.calls


async def test_a_job_that_was_settled_before_the_answer_came_is_done(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        await made.handovers.settled(await settle(made, b"1"))
        made.store.add("2")
        made.endpoints.open(later())
        await made.until(lambda: made.attempted == [b"1", b"2"])


async def test_a_consumer_that_ends_waits_for_no_endpoint_and_the_lease_lives_on(clock: FakeClock) -> None:
    async with bench(clock, 3) as made:
        await hand_over(made, "1", "2", lease_ms=600_000)
        made.store.add("3")
        made.consumer.stop()
        await made.consumer.drained()
        assert set(made.store.active) == {b"1", b"2"}
        assert made.store.released == []
        assert min(until_s for _, until_s in made.store.active.values()) > clock() + 500


async def test_an_answer_that_comes_while_a_consumer_ends_hands_over_as_well(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        made.store.add("1")
        made.consumer.look()
        await made.until(lambda: made.outbound.in_flight == 1)
        made.consumer.stop()
        made.endpoints.open(later(600_000))
        await made.consumer.drained()
        assert made.store.active[b"1"][1] > clock() + 500
        assert made.leased.until["orders"] > clock() + 500


async def test_handing_over_waits_for_redis(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        made.leased.fault = StoreUnavailable()
        made.endpoints.open(later(60_000))
        made.store.add("1")
        made.consumer.look()
        await asyncio.sleep(5)
        made.leased.fault = None
        made.store.break_next("hand_over", carried_out=False)
        made.store.break_next("left_s", carried_out=False)
        await asyncio.sleep(20)
        assert made.store.calls.count("hand_over") == 2
        assert list(made.store.active) == [b"1"]


async def test_other_instances_are_told_of_their_jobs_and_pull_workers_are_not(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        made.store.add("1")
        for token in (b"elsewhere:7", b"8f14e45f-pull", b"instance:9"):
            lease = await made.store.take(token)
            if not isinstance(lease, Lease):
                made.store.steal(b"1", token)
                lease = made.store._lease(b"1", token)
            await made.handovers.settled(lease)
        assert made.news.told == [(b"elsewhere", "orders", b"1")]


async def test_a_notification_that_cannot_be_sent_does_no_harm(clock: FakeClock) -> None:
    async with bench(clock, 1) as made:
        made.store.add("1")
        lease: Any = await made.store.take(b"elsewhere:7")
        made.news.fault = ConnectionLost()
        await made.handovers.settled(lease)
