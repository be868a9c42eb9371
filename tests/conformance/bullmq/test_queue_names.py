"""The list of queue names, on a real Valkey."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis
from msgspec import Raw

from tests.conformance.worlds import RealWorld
from toril.bullmq.queue_names import QueueNameIndex
from toril.bullmq.rules.job import JobSpec


@pytest.fixture
def prefix(queue: str) -> str:
    """A prefix of BullMQ's keys that no other test has, with what a pattern would read as more than itself."""
    return f"p[{queue}]*"


@pytest.fixture
async def names(world: RealWorld, prefix: str, store: redis.Redis) -> AsyncIterator[QueueNameIndex]:
    yield QueueNameIndex(world.link, prefix)
    store.delete(f"toril:queues:{prefix}", f"toril:queues-turn:{prefix}")


def make(store: redis.Redis, prefix: str, *queues: str) -> None:
    """Make queues as another program does."""
    for queue in queues:
        store.hset(f"{prefix}:{queue}:meta", "version", "bullmq:6.7.0")


async def listed(names: QueueNameIndex, *wanted: str) -> None:
    """Wait until these are the names, while they are brought in line."""
    running = asyncio.create_task(names.run())
    try:
        async with asyncio.timeout(20):
            while await names.page("", 100) != list(wanted):
                await asyncio.sleep(0.05)
    finally:
        running.cancel()


async def test_the_first_page_finds_the_queues_that_exist(
    names: QueueNameIndex, store: redis.Redis, prefix: str
) -> None:
    make(store, prefix, "b", "a", "{tag}q", "ü")
    make(store, prefix.replace("[", "x"), "other")
    store.hset(f"{prefix}:a:repeat:meta", "every", 5)  # the scheduler `meta` of a
    store.hset(f"{prefix}:".encode() + b"\xff:meta", "version", "5")
    assert await names.page("", 100) == ["a", "b", "{tag}q", "ü"]


async def test_pages_follow_each_other_by_name_whatever_comes_and_goes(
    names: QueueNameIndex, store: redis.Redis, prefix: str
) -> None:
    make(store, prefix, "a", "c", "e")
    assert await names.page("", 2) == ["a", "c"]
    names.note("b")
    names.note("d")
    assert await names.page("c", 2) == ["d", "e"]
    assert await names.page("e", 2) == []


async def test_only_the_first_page_scans_all_keys(
    names: QueueNameIndex, world: RealWorld, store: redis.Redis, prefix: str
) -> None:
    await names.page("", 10)
    scans = store.info("commandstats").get("cmdstat_scan", {"calls": 0})["calls"]
    for _ in range(5):
        await names.page("", 10)
        await QueueNameIndex(world.link, prefix).page("", 10)
    assert store.info("commandstats").get("cmdstat_scan", {"calls": 0})["calls"] == scans


async def test_queues_of_others_are_found_and_those_that_are_gone_forgotten(
    names: QueueNameIndex, store: redis.Redis, prefix: str
) -> None:
    make(store, prefix, "a", "gone")
    assert await names.page("", 10) == ["a", "gone"]
    make(store, prefix, "later")
    store.delete(f"{prefix}:gone:meta")
    await listed(names, "a", "later")


async def test_one_instance_reads_key_names_for_all(
    names: QueueNameIndex, world: RealWorld, store: redis.Redis, prefix: str
) -> None:
    store.set(f"toril:queues-turn:{prefix}", "1", px=1_500)  # another one's turn
    await names.page("", 10)
    make(store, prefix, "a")
    await listed(names, "a")
    assert store.pttl(f"toril:queues-turn:{prefix}") > 0
    make(store, prefix, "b")
    await listed(QueueNameIndex(world.link, prefix), "a", "b")


async def test_names_that_redis_has_lost_come_back(names: QueueNameIndex, store: redis.Redis, prefix: str) -> None:
    make(store, prefix, "a")
    assert await names.page("", 10) == ["a"]
    store.delete(f"toril:queues:{prefix}")
    assert await names.page("", 10) == ["a"]


async def test_a_queue_is_noted_by_its_first_job(world: RealWorld) -> None:
    noted: list[str] = []
    producer = type(world.producer)(world.scripts, "bull", "bullmq:test", noting=noted.append)
    for _ in range(2):
        await producer.add(world.queue, [JobSpec("a", Raw(b"1"))], 1)
    assert noted == [world.queue]
