"""How many jobs of a group may wait, when many are added at the same moment, one by one and together."""

import asyncio

import pytest
from msgspec import Raw

from tests.conformance.bullmq.test_groups import control_of, left, taken
from tests.conformance.worlds import RealWorld
from toril.bullmq.groups.room import reserve_room
from toril.bullmq.rules.groups import GroupLimits, GroupOption
from toril.bullmq.rules.job import JobOptions, JobSpec
from toril.core.errors import GroupFull
from toril.core.lease import NoJob
from toril.core.verdict import Complete


def some(count: int, group: str = "a") -> list[JobSpec]:
    """Jobs of a group."""
    return [JobSpec("work", Raw(b"1"), JobOptions(group=GroupOption(group))) for _ in range(count)]


async def limited(world: RealWorld, most: int) -> None:
    """Limit how many jobs of the group a may wait."""
    await control_of(world).set_limits(world.queue, "a", GroupLimits(max_waiting=most), paused=None)


async def accepted(world: RealWorld, jobs: list[JobSpec]) -> int:
    """Add jobs; how many were accepted, all or none."""
    try:
        return len(await world.producer.add(world.queue, jobs, 0))
    except GroupFull:
        return 0


async def waiting(world: RealWorld) -> int:
    return (await control_of(world).get(world.queue, "a")).waiting


async def test_adds_of_several_jobs_at_the_same_moment_do_not_pass_the_limit_together(world: RealWorld) -> None:
    await limited(world, 10)
    await accepted(world, some(1))
    sizes = [3, 1, 4, 2, 3, 1, 5, 2] * 5
    async with asyncio.TaskGroup() as tasks:
        adding = [tasks.create_task(accepted(world, some(size))) for size in sizes]
    assert await waiting(world) == 1 + sum(task.result() for task in adding) <= 10
    assert all(task.result() in {0, size} for task, size in zip(adding, sizes, strict=True)), "all or none"
    assert sum(task.result() for task in adding) >= 3


async def test_several_jobs_fill_a_group_to_its_limit_again_and_again_and_leave_no_key(world: RealWorld) -> None:
    await limited(world, 4)
    for _ in range(3):
        assert await accepted(world, some(4)) == 4
        assert await accepted(world, some(1)) == 0
        for _ in range(4):
            await world.store.complete(await taken(world.store), Complete(b"1"), fetch_next=False)
    await control_of(world).remove_limits(world.queue, "a")
    assert isinstance(await world.store.take(b"us:2"), NoJob)
    assert await left(world) == []


async def test_room_that_was_taken_and_never_used_is_free_after_a_while(world: RealWorld) -> None:
    await limited(world, 4)
    await reserve_room(world.scripts, world.keys, {"a": 3, "b": 9})
    assert await accepted(world, some(2)) == 0
    assert await accepted(world, some(1)) == 1
    key = world.keys.key("toril:groups:reserved:a")
    (member,) = await world.link.call("ZRANGE", key, 0, -1)
    assert 0 < await world.link.call("TTL", key) <= 11
    assert await world.link.call("EXISTS", world.keys.key("toril:groups:reserved:b")) == 0, "it has no limit"
    await world.link.call("ZADD", key, "XX", 0, member)
    assert await accepted(world, some(3)) == 3


async def test_room_that_one_job_took_is_used_up_by_its_add_or_given_back(world: RealWorld) -> None:
    await limited(world, 2)
    jobs = [JobSpec("work", Raw(b"1"), JobOptions(jobId=name, group=GroupOption("a"))) for name in ("one", "two")]
    for name in ("one", "two"):
        await world.producer.take_room(world.queue, "a", name)
    with pytest.raises(GroupFull, match="group a"):
        await world.producer.take_room(world.queue, "a", "three")
    await world.producer.add(world.queue, jobs[:1], 0, bounded=False)
    with pytest.raises(GroupFull):
        await world.producer.take_room(world.queue, "a", "three")
    await world.producer.free_room(world.queue, "a", "two")
    await world.producer.take_room(world.queue, "a", "three")
    assert await world.link.call("ZRANGE", world.keys.key("toril:groups:reserved:a"), 0, -1) == [b"1:three"]
    await world.producer.add(world.queue, jobs, 0, again=True, bounded=False)
    assert await waiting(world) == 2


async def test_room_is_taken_in_all_groups_or_in_none(world: RealWorld) -> None:
    await limited(world, 4)
    await control_of(world).set_limits(world.queue, "b", GroupLimits(max_waiting=1), paused=None)
    with pytest.raises(GroupFull, match="group b"):
        await world.producer.add(world.queue, some(2) + some(2, "b"), 0)
    assert await accepted(world, some(4)) == 4
