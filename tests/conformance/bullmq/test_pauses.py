"""Since when a queue is paused, whichever program has paused it, on a real Valkey."""

import time

import redis

from tests.conformance.worlds import RealWorld, control_of


def others(store: redis.Redis, world: RealWorld, event: str, at_ms: int) -> None:
    """What another BullMQ program leaves when it pauses or resumes."""
    meta = f"bull:{world.queue}:meta"
    if event == "paused":
        store.hset(meta, "paused", 1)
    else:
        store.hdel(meta, "paused")
    store.xadd(f"bull:{world.queue}:events", {"event": event}, id=f"{at_ms}-0")


async def test_a_pause_has_its_time_until_the_queue_is_resumed(world: RealWorld, store: redis.Redis) -> None:
    control = control_of(world)
    assert await control.paused_since_ms(world.queue) is None
    before = int(time.time() * 1000)
    await control.pause(world.queue)
    since = await control.paused_since_ms(world.queue)
    assert since is not None
    assert before - 1000 <= since <= time.time() * 1000 + 1000
    await control.pause(world.queue)
    assert await control.paused_since_ms(world.queue) == since, "it is paused since the first of several pauses"
    store.delete(f"bull:{world.queue}:events")
    assert await control.paused_since_ms(world.queue) == since, "events are trimmed"
    await control.resume(world.queue)
    assert await control.paused_since_ms(world.queue) is None
    assert store.hkeys(f"bull:{world.queue}:meta") == []


async def test_another_programs_pause_is_known_by_its_event(world: RealWorld, store: redis.Redis) -> None:
    control = control_of(world)
    others(store, world, "paused", 1_000)
    store.xadd(f"bull:{world.queue}:events", {"event": "added", "jobId": "paused"}, id="1500-0")
    others(store, world, "paused", 2_000)
    assert await control.paused_since_ms(world.queue) == 1_000
    assert (await control.describe(world.queue)).paused_since_ms == 1_000
    others(store, world, "resumed", 3_000)
    others(store, world, "paused", 4_000)
    assert await control.paused_since_ms(world.queue) == 4_000
    store.delete(f"bull:{world.queue}:events")
    assert await control.paused_since_ms(world.queue) is None


async def test_a_pause_that_others_have_ended_and_begun_again_counts_from_then(
    world: RealWorld, store: redis.Redis
) -> None:
    control = control_of(world)
    await control.pause(world.queue)
    later = int(time.time() * 1000) + 60_000
    others(store, world, "resumed", later)
    others(store, world, "paused", later + 5)
    assert await control.paused_since_ms(world.queue) == later + 5
