"""The largest groups of a queue, as metrics show them."""

from typing import Any

import pytest

from tests.conformance.bullmq.test_groups import add, taken
from tests.conformance.worlds import RealWorld
from toril.bullmq.depths import DepthReader
from toril.bullmq.groups import depths
from toril.bullmq.groups.depths import GroupDepths
from toril.bullmq.inspector import Inspector
from toril.core.lease import NoJob
from toril.core.metrics import GroupDepth
from toril.core.verdict import Complete


def reader(world: RealWorld, ahead_s: float = 0.0) -> GroupDepths:
    """A reader whose clock is ahead of that of the jobs."""
    return GroupDepths(world.scripts, "bull", lambda: world.now() + ahead_s)


def counts(groups: tuple[GroupDepth, ...]) -> dict[str, tuple[int, int]]:
    """How many jobs wait and are active, by group."""
    return {group.group: (group.waiting, group.active) for group in groups}


async def test_the_largest_groups_are_shown_and_the_others_together(world: RealWorld) -> None:
    await add(world, "plain", None)
    await add(world, "later", "g-00", delay=60_000)
    for group in range(25):
        for number in range(1 + group):
            await add(world, f"j-{group}-{number}", f"g-{group:02}")
    first = await taken(world.store)
    found = counts(await reader(world).of(world.queue))
    assert list(found) == [f"g-{number:02}" for number in range(24, 4, -1)] + ["other"]
    assert found["g-24"] == (25, 0)
    assert sum(waiting for waiting, _ in found.values()) == sum(range(1, 26)) - 1
    assert sum(active for _, active in found.values()) == 1
    await world.store.complete(first, Complete(b"1"), fetch_next=False)
    assert sum(active for _, active in counts(await reader(world).of(world.queue)).values()) == 0


async def test_a_group_whose_jobs_all_run_is_shown(world: RealWorld) -> None:
    await add(world, "one", "a")
    await add(world, "two", "b")
    await taken(world.store)
    assert counts(await reader(world).of(world.queue)) == {"a": (0, 1), "b": (1, 0)}


async def test_the_age_of_a_group_is_that_of_its_oldest_job(world: RealWorld) -> None:
    await add(world, "old", "a", priority=5)
    world._ahead_s = 100.0
    await add(world, "new", "a")
    await add(world, "alone", "b")
    ages = {group.group: group.oldest_waiting_s for group in await reader(world).of(world.queue)}
    assert ages["a"] == pytest.approx(100, abs=10)
    assert ages["b"] == pytest.approx(0, abs=10)


async def test_readings_take_turns_over_many_groups_and_keep_the_largest(
    world: RealWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depths, "LOOKED_AT", 5)
    monkeypatch.setattr(depths, "MOST_GROUPS", 2)
    monkeypatch.setattr(depths, "SAMPLED", 0)
    for group in range(18):
        for number in range(9 if group in (3, 17) else 1):
            await add(world, f"j-{group}-{number}", f"g-{group:02}")
    reading = reader(world)
    for _ in range(4):
        await reading.of(world.queue)
    for _ in range(4):
        found = counts(await reading.of(world.queue))
        assert found == {"g-03": (9, 0), "g-17": (9, 0), "other": (16, 0)}


async def test_a_large_group_is_found_among_many_at_once(world: RealWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depths, "LOOKED_AT", 1)
    for group in range(30):
        await add(world, f"j-{group}", f"g-{group:02}")
    for number in range(50):
        await add(world, f"z-{number}", "z")
    found = counts(await reader(world).of(world.queue))
    assert found["z"] == (50, 0), "fifty of eighty jobs are looked at"
    assert sum(waiting for waiting, _ in found.values()) == 80


async def test_a_queue_without_groups_is_asked_for_none(world: RealWorld) -> None:
    class Refusing(GroupDepths):
        async def of(self, queue: str) -> Any:
            raise AssertionError(f"{queue} has no groups")

    async def read(groups: GroupDepths) -> tuple[GroupDepth, ...]:
        (depth,) = await DepthReader(Inspector(world.scripts, "bull"), world.now, groups).read([world.queue])
        return depth.groups

    refusing = Refusing(world.scripts, "bull", world.now)
    await add(world, "plain", None)
    assert await read(refusing) == ()
    await add(world, "grouped", "a")
    assert counts(await read(reader(world))) == {"a": (1, 0)}
    for _ in range(2):
        lease = await taken(world.store)
        await world.store.complete(lease, Complete(b"1"), fetch_next=False)
    assert isinstance(await world.store.take(b"us:2"), NoJob)
    assert await read(refusing) == ()
