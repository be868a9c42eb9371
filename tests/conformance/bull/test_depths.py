"""How full queues are, on a real Valkey."""

import time

import pytest

from tests.conformance.worlds import RealWorld
from toril.bull.depths import Depths
from toril.bull.inspector import Inspector
from toril.core.actions import STATES


def depths(world: RealWorld, ahead_s: float = 0.0) -> Depths:
    return Depths(Inspector(world.scripts, "bull"), lambda: time.time() + ahead_s)


async def test_a_depth_is_the_jobs_by_state_and_the_age_of_the_oldest_that_waits(world: RealWorld) -> None:
    await world.add("a")
    await world.add("b")
    await world.add("late", delay_s=100.0)
    (depth,) = await depths(world, 50.0).read([world.queue])
    assert depth.queue == world.queue
    assert depth.jobs == dict.fromkeys(STATES, 0) | {"waiting": 2, "delayed": 1}
    assert depth.oldest_waiting_s == pytest.approx(50.0, abs=30.0)


async def test_where_nothing_waits_nothing_is_old(world: RealWorld) -> None:
    await world.add("late", delay_s=100.0)
    assert [depth.oldest_waiting_s for depth in await depths(world, 50.0).read([world.queue])] == [0.0]


async def test_queues_come_in_the_order_asked_also_those_that_do_not_exist(world: RealWorld) -> None:
    found = await depths(world).read(["no-such-queue", world.queue])
    assert [depth.queue for depth in found] == ["no-such-queue", world.queue]
    assert set(found[0].jobs.values()) == {0}
