"""What every `QueueSurvey` promises, over the fake and over a real Valkey."""

from collections.abc import AsyncIterator

import pytest
from msgspec import Struct

from tests.conformance.holding import held
from tests.conformance.worlds import FakeWorld, World, real_world
from toril.bullmq.leasing.queue_survey import RedisQueueSurvey
from toril.core.lease import Lease
from toril.engine.queue_survey import QueueSurvey
from toril.testing import FakeLeaseStore, FakeQueueSurvey


class Surveyed(Struct):
    """A queue, and the survey that finds it."""

    world: World
    survey: QueueSurvey
    queue: str

    async def at_s(self) -> float | None:
        """When a job may start: 0 for now, None if there is none."""
        found = await self.survey.with_jobs([self.queue])
        assert found.keys() <= {self.queue}
        return found.get(self.queue)


@pytest.fixture(params=["fake", "valkey"])
async def surveyed(request: pytest.FixtureRequest, queue: str) -> AsyncIterator[Surveyed]:
    if request.param == "fake":
        world = FakeWorld()
        assert isinstance(world.store, FakeLeaseStore)
        yield Surveyed(world, FakeQueueSurvey({"orders": world.store}, world.now), "orders")
        return
    async for made in held(real_world(request.getfixturevalue("valkey"), queue)):
        await made.link.call("HSET", made.keys.key("meta"), "version", "bullmq:test")
        yield Surveyed(made, RedisQueueSurvey(made.link, "bull", made.now), queue)


async def test_a_queue_without_jobs_is_left_out(surveyed: Surveyed) -> None:
    assert await surveyed.at_s() is None
    assert not await surveyed.survey.to_check([surveyed.queue])


async def test_a_queue_with_a_waiting_job_needs_a_look_now_until_the_job_is_leased(surveyed: Surveyed) -> None:
    await surveyed.world.add("a")
    assert await surveyed.at_s() == 0
    assert not await surveyed.survey.to_check([surveyed.queue])
    assert isinstance(await surveyed.world.store.take(b"us:1"), Lease)
    assert await surveyed.at_s() is None
    assert list(await surveyed.survey.to_check([surveyed.queue])) == [surveyed.queue]


async def test_a_delayed_job_is_told_with_its_time_and_from_then_on_needs_a_look(surveyed: Surveyed) -> None:
    await surveyed.world.add("late", delay_s=500.0)
    await surveyed.world.add("later", delay_s=900.0)
    at_s = await surveyed.at_s()
    assert at_s is not None
    now_s = surveyed.world.now()
    assert at_s == pytest.approx(now_s + 500.0, abs=100.0)
    await surveyed.world.pass_time(at_s - now_s + 1.0)
    assert await surveyed.at_s() == 0
