"""Holds on a real Valkey: who obeys them, and that they leave nothing behind."""

import asyncio
from typing import Any

import pytest

from tests.conformance.worlds import Heard, RealWorld, control_of
from toril.bullmq.control import Control
from toril.bullmq.lua.holds import obeying_holds
from toril.bullmq.rules.actions import QueueLimit
from toril.core.lease import Lease, NoJob
from toril.core.verdict import Complete, Retry, Snooze
from toril.engine.ports import LeaseStore
from toril.queues.rules.worker import Limiter

LONG_MS = 600_000


@pytest.fixture
def control(world: RealWorld) -> Control:
    return control_of(world)


async def left_ms(world: RealWorld) -> int:
    return int(await world.link.call("PTTL", world.keys.key("limiter")))


async def meta(world: RealWorld) -> list[bytes | None]:
    found: list[bytes | None] = await world.link.call("HMGET", world.keys.key("meta"), "max", "duration")
    return found


async def taken(store: LeaseStore, token: bytes = b"us:1") -> Lease:
    lease = await store.take(token)
    assert isinstance(lease, Lease)
    return lease


async def test_a_hold_that_is_over_leaves_a_workers_own_limit_in_force(world: RealWorld, control: Control) -> None:
    store = world.under(limiter=Limiter(1, LONG_MS))
    for number in range(2):
        await world.add(f"job-{number}")
    await control.hold(world.queue, 1)
    while await left_ms(world) > 0:
        await asyncio.sleep(0.001)
    assert await meta(world) == [None, None]
    await taken(store)
    found = await store.take(b"us:2")
    assert isinstance(found, NoJob)
    assert found.retry_in_s > LONG_MS / 2000


async def test_nothing_starts_during_a_hold_and_it_is_one_key_that_expires(world: RealWorld, control: Control) -> None:
    """So there is nothing to tidy up, even for a process that is killed meanwhile."""
    await world.add("a")
    before = set(await world.link.call("KEYS", world.keys.key("*")))
    await control.hold(world.queue, LONG_MS)
    found = await world.store.take(b"us:1")
    assert isinstance(found, NoJob)
    assert found.retry_in_s > LONG_MS / 2000
    assert set(await world.link.call("KEYS", world.keys.key("*"))) - before == {world.keys.key("limiter")}
    assert await meta(world) == [None, None]
    assert 0 < await left_ms(world) <= LONG_MS


@pytest.mark.parametrize("verdict", [Complete(b"1"), Retry(1000, "no", "trace"), Snooze(1000, "no")], ids=str)
async def test_settling_a_job_during_a_hold_brings_no_next_one(
    world: RealWorld, control: Control, verdict: Complete | Retry | Snooze
) -> None:
    await world.add("a")
    await world.add("b")
    lease = await taken(world.store)
    await control.hold(world.queue, LONG_MS)
    settle = {Complete: world.store.complete, Retry: world.store.retry, Snooze: world.store.snooze}[type(verdict)]
    found = await settle(lease, verdict, fetch_next=True)  # type: ignore[operator]
    assert not isinstance(found, Lease)
    assert await world.places(b"b") == ["waiting"]


@pytest.mark.parametrize(("first", "second"), [(LONG_MS, 1000), (1000, LONG_MS)])
async def test_of_two_holds_the_one_that_ends_last_counts(
    world: RealWorld, control: Control, first: int, second: int
) -> None:
    await control.hold(world.queue, first)
    await control.hold(world.queue, second)
    assert LONG_MS / 2 < await left_ms(world) <= LONG_MS


async def test_a_limit_of_the_queue_stays_through_a_hold(world: RealWorld, control: Control) -> None:
    await control.set_rate_limit(world.queue, (1, LONG_MS))
    await world.add("a")
    await taken(world.store)
    await control.hold(world.queue, 2 * LONG_MS)
    assert await left_ms(world) > LONG_MS
    assert (await control.rate_limit(world.queue)).limit == QueueLimit(1, LONG_MS)
    await control.let_go(world.queue)
    assert await meta(world) == [b"1", b"%d" % LONG_MS]
    assert await left_ms(world) == -2
    for job_id in ("b", "c"):
        await world.add(job_id)
    await taken(world.store, b"us:2")
    assert isinstance(await world.store.take(b"us:3"), NoJob)


@pytest.mark.parametrize("job", [{}, {"opts": {"priority": 3}}, {"delay_s": 600.0}], ids=str)
async def test_a_hold_that_is_removed_leaves_a_marker_where_there_are_jobs(
    world: RealWorld, control: Control, job: dict[str, Any]
) -> None:
    await world.add("a", **job)
    await control.hold(world.queue, LONG_MS)
    assert isinstance(await world.store.take(b"us:1"), NoJob)
    await world.link.call("DEL", world.keys.key("marker"))  # as when a worker was woken during the hold
    await control.let_go(world.queue)
    assert await world.link.call("ZSCORE", world.keys.key("marker"), "0") == b"0"


@pytest.mark.parametrize("paused", [True, False])
async def test_a_hold_that_is_removed_leaves_no_marker_where_nothing_may_start(
    world: RealWorld, control: Control, paused: bool
) -> None:
    if paused:
        await world.add("a")
        await control.pause(world.queue)
    await control.hold(world.queue, LONG_MS)
    await control.let_go(world.queue)
    assert not await world.link.call("EXISTS", world.keys.key("marker"))


async def test_the_end_of_a_hold_or_limit_is_announced(world: RealWorld) -> None:
    control = control_of(world, heard := Heard())
    await control.let_go(world.queue)
    await control.set_rate_limit(world.queue, (5, 1000))
    await control.set_rate_limit(world.queue, None)
    assert heard.lifted == [world.queue] * 3


async def test_without_a_hold_workers_without_a_limit_count_nothing(world: RealWorld, control: Control) -> None:
    """Nor do they look at what others' limits have counted."""
    await world.link.call("SET", world.keys.key("limiter"), 5, "PX", LONG_MS)
    await world.add("a")
    await taken(world.store)
    assert await world.link.call("GET", world.keys.key("limiter")) == b"5"


async def test_the_limit_that_an_earlier_version_left_in_meta_is_removed(world: RealWorld, control: Control) -> None:
    await world.link.call("HSET", world.keys.key("meta"), "max", 2**53 - 1, "duration", 1000)
    await control.hold(world.queue, 1000)
    assert await meta(world) == [None, None]


def test_a_script_that_reads_the_limiter_in_another_way_is_refused() -> None:
    with pytest.raises(ValueError, match=r"maxJobs .* once, as expected"):
        obeying_holds(b"return 1")
