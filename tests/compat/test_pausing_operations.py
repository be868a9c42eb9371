"""Whatever makes a job wait in a paused queue, the job is there when the queue is resumed, by any version of BullMQ."""

from collections import defaultdict
from collections.abc import AsyncIterator
from itertools import product

import pytest
import redis

from tests.compat.nodejs import LiveNode
from tests.compat.waiting_operations import OPERATIONS, control
from tests.conformance.holding import held
from tests.conformance.worlds import RealWorld, real_world
from tests.support.valkey import ValkeyProcess

pytestmark = pytest.mark.node

WHO = ("bullmq5", "bullmq6", "toril")
# What else there is: nothing; a job that waits when the queue is paused, of which BullMQ 5 makes a list `paused`; and
# one more that BullMQ 5 adds while it is paused, which makes such a list whichever program has paused.
BESIDE = {"nothing": 0, "one": 1, "another": 2}


@pytest.fixture
async def world(valkey: ValkeyProcess, queue: str) -> AsyncIterator[RealWorld]:
    """What works on the shared Valkey."""
    async for made in held(real_world(valkey, queue)):
        yield made


async def tell(worlds: list[RealWorld], who: str, action: str, lives: dict[str, LiveNode]) -> None:
    """Pause or resume queues."""
    if who in lives:
        lives[who].each([one.queue for one in worlds], action)
        return
    for one in worlds:
        await getattr(control(one), action)(one.queue)


def unfinished(store: redis.Redis, prefix: str) -> dict[str, set[str]]:
    """The ids of the jobs that have not finished, by their hashes and by queue."""
    keys = list(store.scan_iter(f"bull:{prefix}*", count=1000, _type="hash"))
    with store.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.hmget(key, "timestamp", "finishedOn")
        found: dict[str, set[str]] = defaultdict(set)
        for key, (timestamp, finished) in zip(keys, pipeline.execute(), strict=True):
            if timestamp is not None and finished is None:
                _, queue, job_id = key.split(":", 2)
                found[queue].add(job_id)
    return found


def lost(store: redis.Redis, queue: str, jobs: set[str]) -> str:
    """What is wrong with a queue in which these jobs should wait, if they have not been put off."""
    waiting = store.lrange(f"bull:{queue}:wait", 0, -1)
    left = store.lrange(f"bull:{queue}:paused", 0, -1)
    put_off = {job_id for name in ("delayed", "prioritized") for job_id in store.zrange(f"bull:{queue}:{name}", 0, -1)}
    return (
        "" if sorted(waiting) == sorted(jobs - put_off) and not left else f"{queue}: {waiting} of {jobs}, left {left}"
    )


@pytest.mark.parametrize(("pauses", "resumes"), list(product(WHO, repeat=2)))
async def test_no_operation_loses_a_job_of_a_paused_queue(
    world: RealWorld, store: redis.Redis, lives: dict[str, LiveNode], pauses: str, resumes: str
) -> None:
    worlds, begun = [], []
    for (name, operation), beside in product(OPERATIONS.items(), BESIDE):
        one = RealWorld(world.link, world.scripts, f"{world.queue}-{name}-beside-{beside}")
        running = operation(one)
        await anext(running)
        if BESIDE[beside]:
            await one.add("there before")
        worlds.append(one)
        begun.append(running)
    await tell(worlds, pauses, "pause", lives)
    lives["bullmq5"].each([one.queue for one in worlds if one.queue.endswith("another")], "add", "work", {})
    for running in begun:
        assert await anext(running, "over") == "over"
    await tell(worlds, resumes, "resume", lives)
    jobs = unfinished(store, world.queue)
    assert [fault for one in worlds if (fault := lost(store, one.queue, jobs[one.queue]))] == []
    counts = {one.queue: store.llen(f"bull:{one.queue}:wait") for one in worlds}
    # Each operation has made one job wait at least.
    assert [queue for queue, count in counts.items() if count <= BESIDE[queue.rpartition("-")[2]]] == []
