"""Jobs in no state, on a real Valkey."""

from typing import Any

import pytest
import redis

from tests.conformance.worlds import RealWorld
from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua.orphans import OrphanedJobs
from toril.bullmq.lua.queue_script import QueueScript
from toril.core.lease import Lease
from toril.core.verdict import Complete


async def lost(world: RealWorld, store: redis.Redis, *job_ids: str) -> None:
    """Add jobs, and let them be lost as they are when BullMQ 5 resumes."""
    for job_id in job_ids:
        await world.add(job_id)
    store.delete(f"bull:{world.queue}:wait", f"bull:{world.queue}:marker")


async def test_orphaned_jobs_wait_again(world: RealWorld, store: redis.Redis) -> None:
    ids = [f"job-{number:03}" for number in range(120)]
    await lost(world, store, *ids)
    await world.add("there")
    store.delete(f"bull:{world.queue}:marker")
    orphans = OrphanedJobs(world.scripts, "bull")
    assert await orphans.restore(world.queue, None) == 120
    waiting = [job_id.decode() for job_id in await world.waiting()]
    assert waiting[0] == "there"
    assert sorted(waiting[1:]) == ids
    assert store.zrange(f"bull:{world.queue}:marker", 0, -1) == ["0"]
    assert await orphans.restore(world.queue, None) == 0
    assert await orphans.remove(world.queue, None) == 0


async def test_each_call_walks_long_lists_for_few_orphans(
    world: RealWorld, store: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For 40 it takes Redis tens of milliseconds where 60,000 jobs wait."""
    await lost(world, store, *(f"job-{number}" for number in range(40)))
    store.rpush(f"bull:{world.queue}:wait", *range(60_000))
    ids: list[int] = []
    call = world.scripts.call

    async def counted(script: QueueScript, queue: QueueKeys, *arguments: str | bytes | int) -> Any:
        ids.append(sum(isinstance(one, bytes) for one in arguments))
        return await call(script, queue, *arguments)

    monkeypatch.setattr(world.scripts, "call", counted)
    assert await OrphanedJobs(world.scripts, "bull").restore(world.queue, 20) == 20
    assert await OrphanedJobs(world.scripts, "bull").remove(world.queue, None) == 20
    assert ids == [1] * 40


async def test_a_paused_queue_of_bullmq_5_gets_them_where_they_are_safe(world: RealWorld, store: redis.Redis) -> None:
    await lost(world, store, "a")
    store.rpush(f"bull:{world.queue}:paused", "there")
    store.hset(f"bull:{world.queue}:meta", "paused", 1)
    assert await OrphanedJobs(world.scripts, "bull").restore(world.queue, None) == 1
    assert store.lrange(f"bull:{world.queue}:paused", 0, -1) == ["a", "there"]
    assert not store.exists(f"bull:{world.queue}:wait", f"bull:{world.queue}:marker")


async def test_jobs_that_are_in_a_state_or_ended_or_wait_for_children_stay(
    world: RealWorld, store: redis.Redis
) -> None:
    await world.add("done")
    lease = await world.store.take(b"token")
    assert isinstance(lease, Lease)
    await world.store.complete(lease, Complete(b"1"), fetch_next=False)
    store.zrem(f"bull:{world.queue}:completed", "done")
    await lost(world, store, "locked", "parent", "taken", "repeat:often:1700000000000", "urgent")
    store.set(f"bull:{world.queue}:locked:lock", "a token")
    store.sadd(f"bull:{world.queue}:parent:dependencies", "bull:other:1")
    store.rpush(f"bull:{world.queue}:active", "taken")
    store.hset(f"bull:{world.queue}:urgent", "priority", 3)
    store.set(f"bull:{world.queue}:no-job", "a text")
    store.hset(f"bull:{world.queue}:no-job-either", "a", "b")
    await world.add("later", delay_s=600)
    assert await OrphanedJobs(world.scripts, "bull").restore(world.queue, None) == 2
    assert await world.waiting() == [b"repeat:often:1700000000000"]
    assert store.zrange(f"bull:{world.queue}:prioritized", 0, -1) == ["urgent"]


@pytest.mark.parametrize("action", ["restore", "remove"])
async def test_about_as_many_orphans_are_treated_as_asked_for(
    world: RealWorld, store: redis.Redis, action: str
) -> None:
    await lost(world, store, *(f"job-{number}" for number in range(200)))
    treated = await getattr(OrphanedJobs(world.scripts, "bull"), action)(world.queue, 10)
    assert 10 <= treated < 200
