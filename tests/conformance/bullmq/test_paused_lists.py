"""Jobs of a paused queue come together in one list where BullMQ 5 is about, on a real Valkey."""

import asyncio
from collections.abc import Callable

import pytest
import redis

from tests.conformance.worlds import RealWorld
from toril.bullmq.lua.paused_lists import PausedLists


def lists(store: redis.Redis, queue: str) -> dict[str, list[str]]:
    """`wait` and `paused`, the next job last."""
    return {name: store.lrange(f"bull:{queue}:{name}", 0, -1) for name in ("wait", "paused")}


async def look(world: RealWorld) -> int:
    """Look after the queue until there is nothing to do; 1 when it is paused."""
    while (found := await world.scripts.run(world.keys.prefix, *world.scripts.looking_after(world.keys.prefix))) == 2:
        pass
    return int(found)


async def soon(fact: Callable[[], bool]) -> None:
    """Wait for it."""
    async with asyncio.timeout(20):
        while not fact():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("new", "old"), [(12_000, 2), (2, 12_000), (7_000, 7_001), (7_001, 7_000), (3, 0)])
async def test_waiting_jobs_go_behind_those_that_bullmq_5_has_paused(
    world: RealWorld, store: redis.Redis, new: int, old: int
) -> None:
    """However many they are, and whichever list is moved."""
    wait, paused = [f"new-{number}" for number in range(new)], [f"old-{number}" for number in range(old)]
    for name, jobs in (("wait", wait), ("paused", paused)):
        if jobs:
            store.rpush(f"bull:{world.queue}:{name}", *jobs)
    store.hset(f"bull:{world.queue}:meta", mapping={"paused": 1, "version": "bullmq:5.81.5"})
    assert await look(world) == 1
    assert lists(store, world.queue) == {"wait": [], "paused": wait + paused}


async def test_one_call_moves_a_limited_number_of_jobs(world: RealWorld, store: redis.Redis) -> None:
    """1,500 take it a millisecond or two; so does an add that finds such lists."""
    for name in ("wait", "paused"):
        store.rpush(f"bull:{world.queue}:{name}", *range(6_000))
    store.hset(f"bull:{world.queue}:meta", mapping={"paused": 1, "version": "bullmq:5.81.5"})
    assert await world.scripts.run(world.keys.prefix, *world.scripts.looking_after(world.keys.prefix)) == 2
    assert store.llen(f"bull:{world.queue}:wait") == 4_500
    await world.add("job")
    assert (store.llen(f"bull:{world.queue}:wait"), store.llen(f"bull:{world.queue}:paused")) == (3_000, 9_001)


@pytest.mark.parametrize("version", ["bullmq:6.7.0", "bullmq:3.4.4", "bullmq:15.0.0", ""])
async def test_without_bullmq_5_jobs_stay_where_newer_versions_have_them(
    world: RealWorld, store: redis.Redis, version: str
) -> None:
    store.rpush(f"bull:{world.queue}:wait", "b", "a")
    store.hset(f"bull:{world.queue}:meta", mapping={"paused": 1} | ({"version": version} if version else {}))
    await world.add("c")
    assert await look(world) == 1
    assert lists(store, world.queue) == {"wait": ["c", "b", "a"], "paused": []}


async def test_a_queue_that_is_not_paused_is_left_alone(world: RealWorld, store: redis.Redis) -> None:
    store.rpush(f"bull:{world.queue}:wait", "a")
    store.rpush(f"bull:{world.queue}:paused", "left")
    assert await look(world) == 0
    assert lists(store, world.queue) == {"wait": ["a"], "paused": ["left"]}


async def test_a_full_queue_gets_no_marker(world: RealWorld, store: redis.Redis) -> None:
    """It would wake consumers for nothing, again and again."""
    store.rpush(f"bull:{world.queue}:wait", "a")
    store.rpush(f"bull:{world.queue}:active", "b")
    store.hset(f"bull:{world.queue}:meta", "concurrency", 1)
    assert (await look(world), store.exists(f"bull:{world.queue}:marker")) == (0, 0)
    store.hset(f"bull:{world.queue}:meta", "concurrency", 2)
    assert (await look(world), store.zrange(f"bull:{world.queue}:marker", 0, -1)) == (0, ["0"])


async def test_a_paused_queue_is_looked_after_until_it_is_resumed(world: RealWorld, store: redis.Redis) -> None:
    paused = PausedLists(world.scripts)
    store.hset(f"bull:{world.queue}:meta", "paused", 1)
    running = asyncio.ensure_future(paused.run())
    world.scripts.touched.add(world.keys.prefix)
    for number in range(3):  # noticed again and again, though it is touched once
        store.rpush(f"bull:{world.queue}:paused", f"old-{number}")
        store.rpush(f"bull:{world.queue}:wait", f"new-{number}")
        await soon(lambda: not lists(store, world.queue)["wait"])
        store.script_flush()
    assert len(lists(store, world.queue)["paused"]) == 6
    store.hdel(f"bull:{world.queue}:meta", "paused")
    await soon(lambda: not paused.watched)
    running.cancel()


async def test_consumers_are_woken_for_jobs_that_wait_in_a_resumed_queue(world: RealWorld, store: redis.Redis) -> None:
    """Also where the queue was paused for so short a time that it was not seen."""
    running = asyncio.ensure_future(PausedLists(world.scripts).run())
    store.hset(f"bull:{world.queue}:meta", "paused", 1)
    await world.add("a")
    store.hdel(f"bull:{world.queue}:meta", "paused")  # as BullMQ 5 does where there is no list `paused`
    await soon(lambda: store.zrange(f"bull:{world.queue}:marker", 0, -1) == ["0"])
    running.cancel()
