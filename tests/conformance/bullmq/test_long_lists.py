"""Jobs in long lists are found and removed without looking through the whole list, on a real Valkey."""

from collections.abc import Iterator

import pytest
import redis

from tests.conformance.worlds import RealWorld
from toril.bullmq.job_actions import JobActions
from toril.bullmq.lua.long_lists import LONG

LENGTH = 2 * LONG
OLDEST, MIDDLE, NEWEST = "0", str(LONG), str(LENGTH - 1)


@pytest.fixture
def actions(world: RealWorld) -> JobActions:
    return JobActions(world.scripts, "bull", lambda: 1.0)


def fill(store: redis.Redis, queue: str, name: str) -> None:
    """A long list, the newest job first, in which three have a hash."""
    for first in range(0, LENGTH, 20_000):
        store.lpush(f"bull:{queue}:{name}", *range(first, first + 20_000))
    store.hset(f"bull:{queue}:meta", "version", "bullmq:6.0.0")
    for job_id in (OLDEST, MIDDLE, NEWEST):
        store.hset(f"bull:{queue}:{job_id}", mapping={"name": "n", "timestamp": 1_000_000 + int(job_id)})


@pytest.fixture(params=["wait", "paused"])
def name(request: pytest.FixtureRequest, world: RealWorld, store: redis.Redis) -> Iterator[str]:
    fill(store, world.queue, request.param)
    yield request.param
    store.delete(f"bull:{world.queue}:{request.param}")


async def test_a_job_waits_wherever_in_the_list_it_is(
    actions: JobActions, world: RealWorld, store: redis.Redis, name: str
) -> None:
    assert [await actions.state(world.queue, one) for one in (OLDEST, MIDDLE, NEWEST)] == ["waiting"] * 3
    assert await actions.state(world.queue, "none") == "unknown"
    for state in ("completed", "failed", "delayed", "waiting-children"):
        store.hset(f"bull:{world.queue}:{state}1", "name", "n")
        store.zadd(f"bull:{world.queue}:{state}", {f"{state}1": 1})
        assert await actions.state(world.queue, f"{state}1") == state


async def test_a_job_is_removed_from_either_half(
    actions: JobActions, world: RealWorld, store: redis.Redis, name: str
) -> None:
    for job_id in (OLDEST, MIDDLE, NEWEST):
        await actions.remove(world.queue, job_id, children=True)
        assert store.lpos(f"bull:{world.queue}:{name}", job_id) is None
        assert not store.exists(f"bull:{world.queue}:{job_id}")
    assert store.llen(f"bull:{world.queue}:{name}") == LENGTH - 3


async def test_a_time_that_misleads_removes_the_same_job(
    actions: JobActions, world: RealWorld, store: redis.Redis
) -> None:
    fill(store, world.queue, "wait")
    store.hset(f"bull:{world.queue}:{OLDEST}", "timestamp", 9_000_000)
    store.hset(f"bull:{world.queue}:{MIDDLE}", "timestamp", "no time")
    for job_id in (OLDEST, MIDDLE):
        await actions.remove(world.queue, job_id, children=True)
    assert store.lpos(f"bull:{world.queue}:wait", OLDEST) is store.lpos(f"bull:{world.queue}:wait", MIDDLE) is None
    store.delete(f"bull:{world.queue}:wait")


async def test_the_oldest_job_is_looked_for_from_its_end(
    actions: JobActions, world: RealWorld, store: redis.Redis
) -> None:
    """Seen by a list whose newest jobs have the id too: those are left."""
    fill(store, world.queue, "wait")
    store.linsert(f"bull:{world.queue}:wait", "AFTER", NEWEST, OLDEST)
    await actions.remove(world.queue, OLDEST, children=True)
    assert store.lpos(f"bull:{world.queue}:wait", OLDEST) == 1
    assert store.lindex(f"bull:{world.queue}:wait", -1) != OLDEST
    store.delete(f"bull:{world.queue}:wait")


async def test_jobs_in_one_part_of_a_list_are_removed_in_one_step(
    actions: JobActions, world: RealWorld, store: redis.Redis, name: str
) -> None:
    """In the middle of the list, where the job with the lowest number is the last."""
    key, at = f"bull:{world.queue}", LENGTH - 1 - LONG
    near = [str(LONG + n) for n in (30, 20, 10)]
    for job_id in near:
        store.hset(f"{key}:{job_id}", mapping={"name": "n", "timestamp": 1})
    store.set(f"{key}:{near[1]}:lock", "a worker's")
    state = "waiting" if name == "wait" else name
    asked = [*near, MIDDLE, NEWEST, str(LONG + 5)]
    removed = await actions.remove_listed(world.queue, state, asked, (at - 40, at + 10))
    assert removed == [True, False, True, True, None, None], "one is locked, one elsewhere, and one has no job"
    assert store.llen(f"{key}:{name}") == LENGTH - 3
    assert store.lpos(f"{key}:{name}", "") is None
    assert [store.lpos(f"{key}:{name}", one) is None for one in asked] == [True, False, True, True, False, False]
    assert store.lrange(f"{key}:{name}", at - 31, at - 18)[0] == str(LONG + 31)
    assert [bool(store.exists(f"{key}:{one}")) for one in (*near, MIDDLE)] == [False, True, False, False]
    events = [entry for _, entry in store.xrange(f"{key}:events")]
    assert [(one["event"], one["jobId"]) for one in events] == [("removed", one) for one in (near[0], near[2], MIDDLE)]


async def test_a_job_that_cannot_be_removed_keeps_its_place(
    actions: JobActions, world: RealWorld, store: redis.Redis
) -> None:
    key = f"bull:{world.queue}"
    store.lpush(f"{key}:wait", "c", "b", "a")
    for job_id in ("a", "b", "c"):
        store.hset(f"{key}:{job_id}", "name", "n")
    store.set(f"{key}:b:dependencies", "another program's")
    assert await actions.remove_listed(world.queue, "waiting", ["a", "b", "c"], (0, 2)) == [True, None, True]
    assert store.lrange(f"{key}:wait", 0, -1) == ["b"]
