"""What leasing over BullMQ's scripts does beyond the port: retention, events, pauses, schedulers, odd hashes."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from bullmq import Queue

from tests.conformance.worlds import RealWorld
from tests.support.valkey import ValkeyProcess
from toril.core.errors import LeaseLost
from toril.core.lease import NOTHING, Lease
from toril.core.stored_job import Keep
from toril.core.verdict import Complete, Fail, Retry
from toril.engine.ports import LeaseStore
from toril.queues.rules.worker import Limiter

DONE = Complete(b'"done"')
FAILED = Fail("Bad Gateway", "trace")


async def taken(store: LeaseStore, token: bytes = b"us:1") -> Lease:
    lease = await store.take(token)
    assert isinstance(lease, Lease)
    return lease


async def finish(world: RealWorld, store: LeaseStore, jobs: int, verdict: Complete | Fail, **opts: Any) -> list[bytes]:
    """Add and finish jobs one by one, a second apart; the ids that are kept."""
    for number in range(jobs):
        await world.add(f"job-{number}", opts=opts)
        lease = await taken(store)
        if isinstance(verdict, Complete):
            await store.complete(lease, verdict, fetch_next=False)
        else:
            await store.fail(lease, verdict, fetch_next=False)
        await world.pass_time(1.0)
    place = "completed" if isinstance(verdict, Complete) else "failed"
    left: list[bytes] = await world.link.call("ZRANGE", world.keys.key(place), 0, -1)
    hashes = [job_id for number in range(jobs) if await world.fields(job_id := b"job-%d" % number)]
    assert hashes == left, "a job is kept whole or not at all"
    return left


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        (None, 5),
        (True, 0),
        (False, 5),
        (0, 0),
        (2, 2),
        ({"count": 3}, 3),
        ({"age": 3}, 3),
        ({"age": 100, "count": 1}, 1),
        ({}, 5),
        ("yes", 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("verdict", [DONE, FAILED], ids=["completed", "failed"])
async def test_a_job_says_how_many_finished_ones_stay(
    world: RealWorld, kept: Any, left: int, verdict: Complete | Fail
) -> None:
    option = "removeOnComplete" if isinstance(verdict, Complete) else "removeOnFail"
    found = await finish(world, world.store, 5, verdict, **({option: kept} if kept is not None else {}))
    assert len(found) == left
    assert found == [b"job-%d" % number for number in range(5 - left, 5)]


@pytest.mark.parametrize("verdict", [DONE, FAILED], ids=["completed", "failed"])
async def test_a_job_without_retention_options_gets_those_of_its_worker(
    world: RealWorld, verdict: Complete | Fail
) -> None:
    store = world.under(keep_completed=Keep(2), keep_failed=Keep(2))
    assert await finish(world, store, 5, verdict) == [b"job-3", b"job-4"]


async def test_the_retention_options_of_a_job_win_over_those_of_its_worker(world: RealWorld) -> None:
    store = world.under(keep_completed=Keep(0))
    assert len(await finish(world, store, 3, DONE, removeOnComplete=False)) == 3


async def test_finishing_is_announced(world: RealWorld) -> None:
    await world.add("a", opts={"attempts": 2})
    await world.store.retry(await taken(world.store), Retry(0, "first", "t"), fetch_next=False)
    await world.store.complete(await taken(world.store), DONE, fetch_next=True)
    await world.add("b")
    await world.store.fail(await taken(world.store), FAILED, fetch_next=True)
    stream = await world.link.call("XRANGE", world.keys.key("events"), "-", "+")
    events = [dict(zip(flat[::2], flat[1::2], strict=True)) for _, flat in stream]
    names = [(event[b"event"].decode(), event.get(b"jobId", b"").decode()) for event in events]
    assert [pair for pair in names if pair[0] in {"active", "completed", "failed", "drained"}] == [
        ("active", "a"),
        ("active", "a"),
        ("completed", "a"),
        ("drained", ""),
        ("active", "b"),
        ("failed", "b"),
        ("drained", ""),
    ]
    completed = next(event for event in events if event[b"event"] == b"completed")
    assert completed[b"returnvalue"] == b'"done"'
    failed = next(event for event in events if event[b"event"] == b"failed")
    assert failed[b"failedReason"] == b"Bad Gateway"


async def test_a_finished_job_has_its_time_and_no_lock(world: RealWorld) -> None:
    job_id = await world.add("a")
    await world.store.complete(await taken(world.store), DONE, fetch_next=False)
    fields = await world.fields(job_id)
    assert abs(int(fields[b"finishedOn"]) / 1000 - world.now()) < 5
    assert await world.link.call("EXISTS", world.keys.key("a:lock")) == 0
    assert await world.link.call("SMEMBERS", world.keys.key("stalled")) == []


async def test_a_paused_queue_has_nothing_to_lease(world: RealWorld, valkey: ValkeyProcess) -> None:
    await world.add("a")
    library = Queue(world.queue, {"connection": valkey.url})
    try:
        await library.pause()
        assert await world.store.take(b"us:1") == NOTHING
        await library.resume()
    finally:
        await library.close()
    assert (await taken(world.store)).job_id == b"a"


async def test_a_queues_own_concurrency_is_obeyed(world: RealWorld) -> None:
    await world.link.call("HSET", world.keys.key("meta"), "concurrency", 1)
    await world.add("a")
    await world.add("b")
    lease = await taken(world.store)
    assert await world.store.take(b"us:2") == NOTHING
    found = await world.store.complete(lease, DONE, fetch_next=True)
    assert isinstance(found, Lease)


async def test_a_lifo_job_that_is_retried_is_next_again(world: RealWorld) -> None:
    await world.add("a", opts={"lifo": True, "attempts": 2})
    await world.add("b")
    await world.store.retry(await taken(world.store), Retry(0, "r", "t"), fetch_next=False)
    assert await world.waiting() == [b"a", b"b"]


async def test_a_prioritized_job_that_is_retried_keeps_its_priority(world: RealWorld) -> None:
    await world.add("a", opts={"priority": 3, "attempts": 3})
    await world.store.retry(await taken(world.store), Retry(0, "r", "t"), fetch_next=False)
    assert await world.places(b"a") == ["prioritized"]
    await world.store.retry(await taken(world.store), Retry(1000, "r", "t"), fetch_next=False)
    await world.pass_time(1.1)
    await world.add("b", opts={"priority": 2})
    assert (await taken(world.store, b"us:1")).job_id == b"b"
    assert (await taken(world.store, b"us:2")).job_id == b"a"


async def test_a_released_prioritized_job_is_leased_again(world: RealWorld) -> None:
    await world.add("a", opts={"priority": 3})
    await world.store.release(await taken(world.store))
    assert (await taken(world.store)).job_id == b"a"


@pytest.mark.parametrize(("limit", "left"), [(0, []), (1, ["t3"]), (2, ["t2", "t3"]), (9, ["t1", "t2", "t3"])])
async def test_only_so_many_traces_are_kept(world: RealWorld, limit: int, left: list[str]) -> None:
    opts = json.dumps({"attempts": 9, "stackTraceLimit": limit}).encode()
    job_id = await world.add("a", fields={b"opts": opts})
    for number in range(1, 4):
        await world.store.retry(await taken(world.store), Retry(0, "r", f"t{number}"), fetch_next=False)
    assert msgspec.json.decode((await world.fields(job_id))[b"stacktrace"]) == left


@pytest.mark.parametrize(
    "fields",
    [
        {b"stacktrace": b"nonsense"},
        {b"stacktrace": b"[1]"},
        {b"stacktrace": b'["\xff"]'},
        {b"opts": b"nonsense"},
        {b"opts": b"[]"},
        {b"opts": b'{"attempts":"three","backoff":[],"removeOnComplete":{"count":"x","age":-5}}'},
        {b"opts": b'{"attempts":1e300,"removeOnFail":{"age":1e300}}'},
        {b"data": b"\xff\x00"},
        {b"name": b"\xff"},
    ],
    ids=str,
)
async def test_a_job_with_an_odd_hash_can_be_settled(world: RealWorld, fields: dict[bytes, bytes]) -> None:
    for number, method in enumerate(("complete", "fail", "retry")):
        job_id = await world.add(f"job-{number}", fields=fields)
        lease = await taken(world.store)
        verdict = {"complete": DONE, "fail": FAILED, "retry": Retry(5000, "r", "t")}[method]
        await getattr(world.store, method)(lease, verdict, fetch_next=True)
        place = {"complete": "completed", "fail": "failed", "retry": "delayed"}[method]
        assert await world.places(job_id) == [place]


@pytest.mark.parametrize("job_id", [b"\xff\xfe", "größe".encode(), b"with space", b"a:b:c"])
async def test_any_job_id_can_be_leased_renewed_adopted_and_settled(world: RealWorld, job_id: bytes) -> None:
    """Any program may write ids to Redis; one that is not UTF-8 must not end the lease keeper."""
    await world.link.call("HSET", world.keys.key(job_id), "name", "a", "data", "{}", "opts", "{}", "timestamp", 1)
    await world.link.call("LPUSH", world.keys.key("wait"), job_id)
    lease = await taken(world.store)
    assert lease.job_id == job_id
    assert await world.store.extend([lease]) == set()
    assert [found.job_id for found in await world.store.adopt([lease.token])] == [job_id]
    await world.store.complete(lease, DONE, fetch_next=True)
    assert await world.places(job_id) == ["completed"]


async def test_the_stalled_check_runs_once_per_interval_for_all_instances(world: RealWorld) -> None:
    job_id = await world.add("a")
    await taken(world.store)
    await world.lapse(job_id)
    assert await world.store.recover_lapsed(60_000) == []
    for _ in range(3):
        assert await world.store.recover_lapsed(60_000) == []
    await world.link.call("DEL", world.keys.key("stalled-check"))
    assert await world.store.recover_lapsed(60_000) == [job_id]


async def test_a_worker_may_let_jobs_stall_more_often(world: RealWorld) -> None:
    store = world.under(max_stalled_count=3)
    job_id = await world.add("a")
    for _ in range(3):
        await taken(store)
        await world.lapse(job_id)
        for _ in range(2):
            await store.recover_stalled()
            await world.pass_time(0.01)
    assert b"defa" not in (await taken(store)).fields


async def test_a_scheduler_goes_on_with_each_job(world: RealWorld, valkey: ValkeyProcess) -> None:
    library = Queue(world.queue, {"connection": valkey.url})
    try:
        await library.upsertJobScheduler("every", {"every": 1000}, "tick", {"n": 1}, {"attempts": 2})
    finally:
        await library.close()
    ids = set()
    for _ in range(3):
        await world.pass_time(1.1)
        lease = await taken(world.store)
        ids.add(lease.job_id)
        assert (lease.fields[b"name"], lease.fields[b"rjk"]) == (b"tick", b"every")
        await world.store.schedule_next(lease)
        assert await world.link.call("ZCARD", world.keys.key("delayed")) == 1
        await world.store.schedule_next(lease)  # asked again, after an answer that got lost
        assert await world.link.call("ZCARD", world.keys.key("delayed")) == 1
        await world.store.complete(lease, DONE, fetch_next=True)
    assert len(ids) == 3


async def test_a_scheduler_that_is_gone_produces_nothing(world: RealWorld, valkey: ValkeyProcess) -> None:
    library = Queue(world.queue, {"connection": valkey.url})
    try:
        await library.upsertJobScheduler("every", {"every": 1000}, "tick", {}, {})
        await world.pass_time(1.1)
        lease = await taken(world.store)
        await library.removeJobScheduler("every")
    finally:
        await library.close()
    await world.store.schedule_next(lease)
    assert await world.link.call("ZCARD", world.keys.key("delayed")) == 0


async def test_an_unreadable_schedule_stops_only_its_own_jobs(world: RealWorld) -> None:
    opts = json.dumps({"repeat": {"pattern": "not a cron", "every": []}}).encode()
    await world.add("a", fields={b"rjk": b"every", b"opts": opts})
    lease = await taken(world.store)
    assert await world.store.schedule_next(lease) is None
    await world.store.complete(lease, DONE, fetch_next=True)


async def test_a_rate_limit_is_shared_by_all_workers_of_the_queue(world: RealWorld) -> None:
    stores = [world.under(limiter=Limiter(3, 60_000)) for _ in range(4)]
    for number in range(10):
        await world.add(f"job-{number}")
    async with asyncio.TaskGroup() as tasks:
        takes = [tasks.create_task(store.take(b"us:%d" % number)) for number, store in enumerate(stores * 2)]
    assert len([take for take in takes if isinstance(take.result(), Lease)]) == 3


async def test_settling_survives_scripts_that_redis_has_forgotten(world: RealWorld) -> None:
    for job_id in ("a", "b", "c"):
        await world.add(job_id, opts={"attempts": 3})
    verdicts: list[tuple[str, Any]] = [("complete", DONE), ("fail", FAILED), ("retry", Retry(5000, "r", "t"))]
    for method, verdict in verdicts:
        lease = await taken(world.store)
        await world.link.call("SCRIPT", "FLUSH")
        await getattr(world.store, method)(lease, verdict, fetch_next=False)
        with pytest.raises(LeaseLost):
            await getattr(world.store, method)(lease, verdict, fetch_next=False)
