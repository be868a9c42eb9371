"""Locks that have lapsed, on a real Valkey: who takes them back, and which stalled checks wait for that."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.conformance.bullmq.links import PATIENT, address_of, linked
from tests.conformance.holding import held
from tests.conformance.worlds import LOCK_S, RealWorld, real_world
from tests.support.valkey import StartValkey, ValkeyProcess
from toril.core.lease import Lease
from toril.redis.connection import Link


@pytest.fixture
async def world(valkey: ValkeyProcess, queue: str) -> AsyncIterator[RealWorld]:
    async for made in held(real_world(valkey, queue)):
        yield made


async def suspected(world: RealWorld, **opts: object) -> Lease:
    """A job whose lock has lapsed since a stalled check has seen it: the next check moves it."""
    job_id = await world.add("a", opts=opts)
    lease = await world.store.take(b"us:1")
    assert isinstance(lease, Lease)
    await world.store.recover_stalled()
    await world.lapse(job_id)
    await world.pass_time(0.01)
    return lease


async def test_a_stalled_check_that_was_held_up_on_its_way_moves_nothing(world: RealWorld) -> None:
    lease = await suspected(world)
    await world.pass_time(-2.0)
    assert await world.store.recover_stalled() == []
    await world.pass_time(2.0)
    assert await world.store.recover_stalled() == [lease.job_id]


async def test_no_stalled_check_is_made_while_redis_has_only_just_come_back(
    world: RealWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await suspected(world)
    connects = world.link.connects
    world.link.reconnect("a test")
    while world.link.connects == connects:
        await asyncio.sleep(0.01)
    assert await world.store.recover_stalled() == []
    assert world.link.back_at is not None
    monkeypatch.setattr(world.link, "back_at", world.link.back_at - LOCK_S / 3)
    assert await world.store.recover_stalled() == [lease.job_id]


async def test_a_consumer_that_starts_while_redis_has_just_come_back_looks_for_abandoned_jobs_later(
    world: RealWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await suspected(world)
    monkeypatch.setattr(world.link, "back_at", asyncio.get_running_loop().time())
    found, look_again_in_s = await world.store.recover_abandoned()
    assert (found, look_again_in_s) == ([], pytest.approx(LOCK_S / 3, abs=2))
    monkeypatch.setattr(world.link, "back_at", asyncio.get_running_loop().time() - LOCK_S / 3)
    assert (await world.store.recover_abandoned())[0] == [lease.job_id]


@pytest.mark.parametrize("is_up_first", [True, False])
async def test_redis_has_come_back_also_for_a_process_that_started_while_it_was_away(
    start_valkey: StartValkey, is_up_first: bool
) -> None:
    valkey = start_valkey()
    if not is_up_first:
        valkey.stop()
    link = Link(address_of(valkey), PATIENT)
    async with linked(link):
        if not is_up_first:
            while link.last_error is None:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(valkey.start)
        await link.up(10.0)
        assert (link.back_at is None) is is_up_first


@pytest.mark.parametrize(("field", "value"), [("ats", "2"), ("processedOn", "1")])
async def test_a_job_that_another_program_has_begun_is_not_taken_back(world: RealWorld, field: str, value: str) -> None:
    lease = await suspected(world)
    await world.link.call("HSET", world.keys.key(lease.job_id), field, value)
    assert await world.store.extend([lease]) == {lease.job_id}


async def test_a_job_that_has_left_the_active_ones_is_not_taken_back(world: RealWorld) -> None:
    lease = await suspected(world)
    await world.link.call("LREM", world.keys.key("active"), 1, lease.job_id)
    assert await world.store.extend([lease]) == {lease.job_id}
    assert await world.link.call("EXISTS", world.keys.key(lease.job_id + b":lock")) == 0


@pytest.mark.parametrize("keeps_slot", [True, False])
async def test_a_job_of_a_group_is_taken_back_while_it_has_its_slot(world: RealWorld, keeps_slot: bool) -> None:
    lease = await suspected(world, group={"id": "tenant"})
    if not keeps_slot:
        slots = world.keys.key("toril:groups:slots")
        assert await world.link.call("HDEL", slots, lease.job_id) == 1
    assert await world.store.extend([lease]) == (set() if keeps_slot else {lease.job_id})
