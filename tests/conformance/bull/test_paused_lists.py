"""Jobs of a paused queue come together in one list where BullMQ 5 is about, on a real Valkey."""

import asyncio

import redis

from tests.conformance.worlds import RealWorld
from toril.bull.paused_lists import PausedLists


def lists(store: redis.Redis, queue: str) -> dict[str, list[str]]:
    """`wait` and `paused`, the next job last."""
    return {name: store.lrange(f"bull:{queue}:{name}", 0, -1) for name in ("wait", "paused")}


async def test_what_waits_goes_behind_what_bullmq_5_has_set_aside(world: RealWorld, store: redis.Redis) -> None:
    """However many they are: a call of the script moves 5,000."""
    new = [f"new-{number}" for number in range(12_000)]
    store.rpush(f"bull:{world.queue}:wait", *reversed(new))
    store.rpush(f"bull:{world.queue}:paused", "old-2", "old-1")
    store.hset(f"bull:{world.queue}:meta", "paused", 1)
    assert await PausedLists(world.scripts, "bull").reunite(world.queue) is True
    assert lists(store, world.queue) == {"wait": [], "paused": [*reversed(new), "old-2", "old-1"]}


async def test_without_bullmq_5_jobs_stay_where_newer_versions_have_them(world: RealWorld, store: redis.Redis) -> None:
    store.rpush(f"bull:{world.queue}:wait", "b", "a")
    store.hset(f"bull:{world.queue}:meta", "paused", 1)
    assert await PausedLists(world.scripts, "bull").reunite(world.queue) is True
    assert lists(store, world.queue) == {"wait": ["b", "a"], "paused": []}


async def test_a_queue_that_is_not_paused_is_left_alone(world: RealWorld, store: redis.Redis) -> None:
    store.rpush(f"bull:{world.queue}:wait", "a")
    store.rpush(f"bull:{world.queue}:paused", "left")
    assert await PausedLists(world.scripts, "bull").reunite(world.queue) is False
    assert lists(store, world.queue) == {"wait": ["a"], "paused": ["left"]}


async def test_a_paused_queue_is_looked_after_until_it_is_resumed(world: RealWorld, store: redis.Redis) -> None:
    paused = PausedLists(world.scripts, "bull")
    store.hset(f"bull:{world.queue}:meta", "paused", 1)
    running = asyncio.ensure_future(paused.run())
    paused.note(world.queue)
    for number in range(3):  # noticed again and again, though it is noted once
        store.rpush(f"bull:{world.queue}:paused", f"old-{number}")
        store.rpush(f"bull:{world.queue}:wait", f"new-{number}")
        async with asyncio.timeout(20):
            while lists(store, world.queue)["wait"]:
                await asyncio.sleep(0.05)
    assert len(lists(store, world.queue)["paused"]) == 6
    store.hdel(f"bull:{world.queue}:meta", "paused")
    async with asyncio.timeout(20):
        while paused.watched:
            await asyncio.sleep(0.05)
    running.cancel()
