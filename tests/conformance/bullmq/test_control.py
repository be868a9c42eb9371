"""A queue as a whole, on a real Valkey."""

from collections import Counter

import redis

from tests.conformance.worlds import RealWorld, control_of


async def test_a_resume_brings_back_jobs_that_bullmq_5_has_paused_with_one_event(
    world: RealWorld, store: redis.Redis
) -> None:
    """The script moves 7,000 of them a call, when there are others waiting."""
    await world.add("a")
    aside = [f"p-{number}" for number in range(15_000)]
    store.rpush(f"bull:{world.queue}:paused", *aside)
    await control_of(world).resume(world.queue)
    assert not store.exists(f"bull:{world.queue}:paused")
    back = store.lrange(f"bull:{world.queue}:wait", 0, -1)
    assert Counter(back) == Counter(["a", *aside])
    names = [fields["event"] for _, fields in store.xrange(f"bull:{world.queue}:events")]
    assert names.count("resumed") == 1
