"""Adding jobs: what lies in Redis afterwards is what BullMQ itself would have put there."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from bullmq import Queue
from msgspec import Raw

from tests.conformance.bullmq.links import address_of, linked, quick
from tests.conformance.worlds import RealWorld, real_world
from tests.support.valkey import ValkeyProcess
from toril.bullmq.flows import Flows
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.producer import Producer
from toril.bullmq.rules.flow import FlowJob
from toril.bullmq.rules.job import JobOptions, JobSpec
from toril.bullmq.rules.job_decoding import decode_jobs
from toril.core.errors import StoreUnavailable
from toril.core.lease import Lease
from toril.core.verdict import Complete
from toril.redis.clock import RedisClock
from toril.redis.connection import Link

NOW_MS = 1_700_000_000_000


def specs(*jobs: dict[str, Any]) -> list[JobSpec]:
    return decode_jobs(json.dumps([{"name": "job", "data": {}} | job for job in jobs]).encode())


async def add(world: RealWorld, *jobs: dict[str, Any]) -> list[bytes]:
    return await world.producer.add(world.queue, specs(*jobs), NOW_MS)


async def kept(world: RealWorld) -> dict[str, Any]:
    """Everything of the queue, by the part of the key behind its name."""
    found: dict[str, Any] = {}
    for key in await world.link.call("KEYS", world.keys.key("*")):
        part = key.removeprefix(world.keys.prefix).decode()
        match (await world.link.call("TYPE", key)).decode():
            case "hash":
                found[part] = await world.fields(part.encode())
            case "list":
                found[part] = await world.link.call("LRANGE", key, 0, -1)
            case "zset":
                found[part] = await world.link.call("ZRANGE", key, 0, -1, "WITHSCORES")
            case "string":
                found[part] = await world.link.call("GET", key)
            case "stream":
                found[part] = [fields for _, fields in await world.link.call("XRANGE", key, "-", "+")]
    return found


def as_text(value: Any, queue: str) -> Any:
    """What lies in Redis as text, with the same name for every queue."""
    match value:
        case bytes():
            return value.decode().replace(queue, "QUEUE")
        case list():
            return [as_text(item, queue) for item in value]
        case dict():
            return {as_text(key, queue): as_text(item, queue) for key, item in value.items()}
        case _:
            return value


async def test_ids_count_up_from_one(world: RealWorld) -> None:
    assert await add(world, {}, {}) == [b"1", b"2"]
    assert await add(world, {}) == [b"3"]


async def test_an_empty_bulk_writes_nothing(world: RealWorld) -> None:
    assert await world.producer.add(world.queue, [], NOW_MS) == []
    assert await kept(world) == {}


async def test_a_job_is_stored_as_it_was_given(world: RealWorld) -> None:
    data = '{ "n" : 1.10, "big": 123456789012345678901234567890, "s":"\\u00fc"}'
    jobs = decode_jobs(f'[{{"name":"größe","data":{data}}}]'.encode())
    (job_id,) = await world.producer.add(world.queue, jobs, NOW_MS)
    fields = await world.fields(job_id)
    assert fields == {
        b"name": "größe".encode(),
        b"data": data.encode(),
        b"opts": b'{"attempts":0}',
        b"timestamp": b"1700000000000",
        b"delay": b"0",
        b"priority": b"0",
    }


async def test_each_kind_of_job_is_added_to_its_redis_key(world: RealWorld) -> None:
    kinds: dict[bytes, dict[str, Any]] = {
        b"standard": {},
        b"lifo": {"lifo": True},
        b"delayed-1": {"delay": 60_000},
        b"prioritized-1": {"priority": 5},
        b"both": {"delay": 60_000, "priority": 5},
        b"not-delayed": {"delay": 0},
    }
    for job_id, opts in kinds.items():
        assert await add(world, {"opts": opts | {"jobId": job_id.decode()}}) == [job_id]
    places = {job_id: (await world.places(job_id))[0] for job_id in kinds}
    assert places == {
        b"standard": "waiting",
        b"lifo": "waiting",
        b"delayed-1": "delayed",
        b"prioritized-1": "prioritized",
        b"both": "delayed",
        b"not-delayed": "waiting",
    }
    assert await world.waiting() == [b"lifo", b"standard", b"not-delayed"]


async def test_jobs_are_worked_on_by_their_priority(world: RealWorld) -> None:
    await add(world, *({"opts": {"priority": number, "jobId": f"p{number}"}} for number in (9, 1, 5, 2**21 - 1)))
    leased = [(await world.store.take(b"us:%d" % number)).job_id for number in range(4)]  # type: ignore[union-attr]
    assert leased == [b"p1", b"p5", b"p9", b"p2097151"]


@pytest.mark.parametrize(
    "opts",
    [
        {},
        {"attempts": 3},
        {"delay": 5000},
        {"priority": 7},
        {"delay": 5000, "priority": 7},
        {"lifo": True},
        {"attempts": 3, "backoff": {"type": "exponential", "delay": 1000}},
        {"jobId": "custom-1"},
        {"removeOnComplete": True, "removeOnFail": {"age": 60, "count": 10}},
        {"removeOnComplete": 100},
        {"deduplication": {"id": "dup-1"}},
        {"deduplication": {"id": "dup-2", "ttl": 60000}},
    ],
    ids=str,
)
async def test_an_add_stores_what_bullmqs_library_stores(
    valkey: ValkeyProcess, new_queue: Callable[[], str], opts: dict[str, Any]
) -> None:
    async with real_world(valkey, new_queue()) as ours, real_world(valkey, new_queue()) as theirs:
        await ours.producer.add(ours.queue, specs({"data": {"a": 1}, "opts": opts}), NOW_MS)
        library = Queue(theirs.queue, {"connection": valkey.url})
        try:
            await library.add("job", {"a": 1}, {"timestamp": NOW_MS} | opts)
        finally:
            await library.close()
        left, expected = as_text(await kept(ours), ours.queue), as_text(await kept(theirs), theirs.queue)
    job_id = opts.get("jobId", "1")
    for found in (left, expected):
        for field in ("opts", "data"):
            found[job_id][field] = json.loads(found[job_id][field])
        found["meta"].pop("version", None)
    # The Python library stores two options that Node's does not: a delay of 0, and the timestamp this test gave it.
    expected[job_id]["opts"].pop("timestamp", None)
    if "delay" not in opts:
        assert expected[job_id]["opts"].pop("delay") == 0
    assert left == expected


async def test_the_first_add_leaves_the_version_and_the_length_of_events(world: RealWorld) -> None:
    await add(world, {})
    assert (await kept(world))["meta"] == {b"version": b"bullmq:test", b"opts.maxLenEvents": b"10000"}


async def test_another_librarys_version_is_not_overwritten(world: RealWorld) -> None:
    await world.link.call("HSET", world.keys.key("meta"), "version", "bullmq:5.77.7")
    await add(world, {})
    assert (await kept(world))["meta"][b"version"] == b"bullmq:5.77.7"


async def test_adding_a_job_wakes_a_waiting_worker(world: RealWorld) -> None:
    await add(world, {})
    assert (await kept(world))["marker"] == [b"0", b"0"]


async def test_a_delayed_job_leaves_its_time_in_the_marker(world: RealWorld) -> None:
    await add(world, {"opts": {"delay": 60_000}})
    await add(world, {"opts": {"delay": 30_000}})
    member, score = (await kept(world))["marker"]
    assert (member, float(score)) == (b"1", NOW_MS + 30_000)


async def test_a_bulk_is_in_the_order_of_the_request(world: RealWorld) -> None:
    jobs = [{"data": number, "opts": {"jobId": f"job-{number}"}} for number in range(1000)]
    assert await add(world, *jobs) == [b"job-%d" % number for number in range(1000)]
    assert await world.waiting() == [b"job-%d" % number for number in range(1000)]


async def test_a_bulk_of_all_kinds_of_jobs_is_added_atomically(world: RealWorld) -> None:
    kinds: list[dict[str, Any]] = [
        {}, {"delay": 5000}, {"priority": 3}, {"lifo": True}, {"deduplication": {"id": "d"}}, {"jobId": "own"},
    ]  # fmt: skip
    assert await add(world, *({"opts": opts} for opts in kinds)) == [b"1", b"2", b"3", b"4", b"5", b"own"]


async def test_no_job_of_another_bulk_comes_between(world: RealWorld) -> None:
    async with asyncio.TaskGroup() as tasks:
        for bulk in range(20):
            tasks.create_task(add(world, *({"opts": {"jobId": f"{bulk}-{number}"}} for number in range(20))))
            tasks.create_task(add(world, {"opts": {"jobId": f"single-{bulk}"}}))
    waiting = [job_id.decode() for job_id in await world.waiting()]
    for bulk in range(20):
        first = waiting.index(f"{bulk}-0")
        assert waiting[first : first + 20] == [f"{bulk}-{number}" for number in range(20)]


async def test_a_bulk_without_room_adds_no_job(start_valkey: Callable[..., ValkeyProcess], queue: str) -> None:
    valkey = start_valkey()
    async with real_world(valkey, queue) as world:
        await add(world, {})
        await world.link.call("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(StoreUnavailable):
            await add(world, {}, {"opts": {"delay": 5000}}, {})
        with pytest.raises(StoreUnavailable):
            await add(world, {})
        await world.link.call("CONFIG", "SET", "maxmemory", 0)
        assert await world.waiting() == [b"1"]
        assert await add(world, {}) == [b"2"]


async def test_the_same_custom_id_is_one_job(world: RealWorld) -> None:
    assert await add(world, {"data": 1, "opts": {"jobId": "own"}}) == [b"own"]
    assert await add(world, {"data": 2, "opts": {"jobId": "own"}}, {"opts": {"jobId": "own"}}) == [b"own", b"own"]
    assert await world.waiting() == [b"own"]
    assert (await world.fields(b"own"))[b"data"] == b"1"


async def test_a_duplicate_has_the_id_of_the_job_that_is_there(world: RealWorld) -> None:
    dup = {"opts": {"deduplication": {"id": "dup"}}}
    assert await add(world, dup, dup) == [b"1", b"1"]
    assert await add(world, dup) == [b"1"]
    assert await world.waiting() == [b"1"]
    assert (await world.fields(b"1"))[b"deid"] == b"dup"


async def test_a_deduplication_ends_with_its_time(world: RealWorld) -> None:
    dup = {"opts": {"deduplication": {"id": "dup", "ttl": 60_000}}}
    assert await add(world, dup, dup) == [b"1", b"1"]
    assert 0 < await world.link.call("PTTL", world.keys.key("de:dup")) <= 60_000
    await world.link.call("DEL", world.keys.key("de:dup"))  # as Redis does when the time is over
    assert await add(world, dup) == [b"3"]


@pytest.mark.parametrize(
    "opts",
    [
        {"attempts": 2**53 - 1},
        {"delay": 0, "lifo": False},
        {"delay": 2**40},
        {"backoff": 0.5},
        {"backoff": 2**53 - 1},
        {"removeOnComplete": 2**53 - 1},
        {"removeOnComplete": -(10**15)},
        {"removeOnFail": {"age": 1.5, "count": None, "x": "y"}},
        {"removeOnFail": {}},
        {"removeOnFail": "yes"},
        {"jobId": "日本\u3000語"},
        {"jobId": "9007199254740993"},
        {"deduplication": {"id": "日本"}},
    ],
    ids=str,
)
async def test_every_accepted_job_can_be_added_leased_and_completed(world: RealWorld, opts: dict[str, Any]) -> None:
    (job_id,) = await add(world, {"opts": opts})
    await world.pass_time(2**40 / 1000 + 1)
    lease = await world.store.take(b"us:1")
    assert isinstance(lease, Lease)
    assert lease.job_id == job_id
    await world.store.complete(lease, Complete(b"1"), fetch_next=True)
    assert await world.places(job_id) in (["completed"], [])


async def test_more_queues_than_the_cache_holds_can_be_used(
    valkey: ValkeyProcess, new_queue: Callable[[], str], queue: str
) -> None:
    async with real_world(valkey, queue) as world:
        producer = Producer(world.scripts, "bull", "bullmq:test", cache=3)
        queues = [new_queue() for _ in range(10)]
        for _ in range(3):
            for name in queues:
                await producer.add(name, specs({}), NOW_MS)
        for name in queues:
            assert await world.link.call("LLEN", f"bull:{name}:wait") == 3
        assert len(producer._queues) == 3
        # Only what these jobs needed was prepared.
        assert [len(known._heads) for known in producer._queues.values()] == [1, 1, 1]


async def test_a_prefix_is_part_of_every_key(world: RealWorld) -> None:
    producer = Producer(world.scripts, "my:prefix", "bullmq:test")
    await producer.add(world.queue, specs({"opts": {"deduplication": {"id": "d"}}}), NOW_MS)
    assert await world.link.call("EXISTS", f"my:prefix:{world.queue}:1", f"my:prefix:{world.queue}:de:d") == 2
    assert await kept(world) == {}


async def test_adding_while_redis_is_away_says_so(start_valkey: Callable[..., ValkeyProcess], queue: str) -> None:
    valkey = start_valkey()
    link = Link(address_of(valkey), quick(command_timeout_s=0.2))
    producer = Producer(Scripts(link), "bull", "bullmq:test")
    valkey.stop()
    async with linked(link):
        with pytest.raises(StoreUnavailable):
            await producer.add(queue, specs({}), NOW_MS)
        valkey.start()
        assert await producer.add(queue, specs({}), NOW_MS) == [b"1"]


async def test_jobs_that_waited_for_the_first_connection_have_the_time_of_redis(
    valkey: ValkeyProcess, queue: str, new_queue: Callable[[], str]
) -> None:
    """The clock of this machine is an hour ahead, and that of Redis is not known before."""
    clock = RedisClock(lambda: time.time() + 3600)
    link = Link(address_of(valkey), quick(), prepare=lambda wire: clock.measure(lambda: wire.call("TIME")))
    scripts = Scripts(link)
    producer = Producer(scripts, "bull", "bullmq:test")
    producer.clock = clock
    flows = Flows(scripts, producer, cast(Any, None), cast(Any, None), "bull")
    parent = new_queue()
    tree = [FlowJob("parent", parent, Raw(b"{}"), JobOptions(jobId="p"))]
    wrong_ms = int(clock() * 1000)
    adding = asyncio.gather(
        producer.add(queue, specs({"opts": {"jobId": "a", "delay": 1000}}), wrong_ms), flows.add(tree, wrong_ms)
    )
    await asyncio.sleep(0)
    async with linked(link):
        await adding
        for name, job_id in ((queue, "a"), (parent, "p")):
            stamp = await link.call("HGET", f"bull:{name}:{job_id}", "timestamp")
            assert abs(int(stamp) / 1000 - time.time()) < 60


async def test_after_a_restart_without_data_a_queue_is_new(
    start_valkey: Callable[..., ValkeyProcess], queue: str
) -> None:
    """A flushed Redis has forgotten scripts and meta; adding goes on."""
    valkey = start_valkey()
    async with real_world(valkey, queue) as world:
        await add(world, {})
        await world.link.call("FLUSHALL")
        await world.link.call("SCRIPT", "FLUSH")
        assert await add(world, {}, {}) == [b"1", b"2"]
        assert await add(world, {}) == [b"3"]
