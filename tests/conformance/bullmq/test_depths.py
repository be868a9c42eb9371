"""How full queues are, on a real Valkey."""

import asyncio
import time

import pytest

from tests.conformance.test_meter import of, scraped
from tests.conformance.worlds import RealWorld
from toril.bullmq.depths import DepthReader
from toril.bullmq.inspector import Inspector
from toril.bullmq.rules.actions import STATES
from toril.telemetry import known_depths
from toril.telemetry.prometheus_exposition import PrometheusExposition
from toril.telemetry.prometheus_meter import PrometheusMeter


def depths(world: RealWorld, ahead_s: float = 0.0) -> DepthReader:
    return DepthReader(Inspector(world.scripts, "bull"), lambda: time.time() + ahead_s)


async def test_a_depth_is_the_jobs_by_state_and_the_age_of_the_oldest_that_waits(world: RealWorld) -> None:
    await world.add("a")
    await world.add("b")
    await world.add("late", delay_s=100.0)
    (depth,) = await depths(world, 50.0).read([world.queue])
    assert depth.queue == world.queue
    assert depth.jobs == dict.fromkeys(STATES, 0) | {"waiting": 2, "delayed": 1}
    assert depth.oldest_waiting_s == pytest.approx(50.0, abs=30.0)


async def test_a_queue_without_waiting_jobs_has_no_age(world: RealWorld) -> None:
    await world.add("late", delay_s=100.0)
    assert [depth.oldest_waiting_s for depth in await depths(world, 50.0).read([world.queue])] == [0.0]


async def test_queues_come_in_the_order_asked_also_those_that_do_not_exist(world: RealWorld) -> None:
    found = await depths(world).read(["no-such-queue", world.queue])
    assert [depth.queue for depth in found] == ["no-such-queue", world.queue]
    assert set(found[0].jobs.values()) == {0}


async def test_a_queue_whose_keys_are_none_of_bullmq_is_left_out(world: RealWorld) -> None:
    await world.link.call("SET", f"bull:{world.queue}-odd:wait", "no list")
    found = await depths(world).read([world.queue, f"{world.queue}-odd", "no-such-queue"])
    assert [depth.queue for depth in found] == [world.queue, "no-such-queue"]


async def test_more_queues_than_are_read_at_once_are_shown_and_redis_is_up_all_the_while(
    world: RealWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With far too little time to read all at once: every scrape is answered, and after some all are known."""
    monkeypatch.setattr(known_depths, "FRESH_S", -1.0)
    monkeypatch.setattr(known_depths, "BUDGET_S", 0.1)
    await world.add("a")
    queues = [world.queue, *(f"{world.queue}-{number}" for number in range(1499))]
    meter = PrometheusMeter(100, lambda: 0.0)

    async def ping() -> bool:
        await world.scripts.links.check()
        return True

    shown = PrometheusExposition(meter, depths(world), ping, lambda: queues, version="1", most_queues=1)
    loop = asyncio.get_running_loop()
    assert of(await scraped(shown), "toril_redis_up") == 1
    began = loop.time()
    for _ in range(300):
        samples = await scraped(shown)
        assert of(samples, "toril_redis_up") == 1
        age_s = of(samples, "toril_queue_depths_age_seconds")
        if age_s is not None and age_s < loop.time() - began:
            break
    else:
        pytest.fail("some were never read")
    assert of(samples, "toril_queue_jobs", queue=world.queue, state="waiting") == 1
    assert of(samples, "toril_queue_jobs", queue="other", state="waiting") == 0
