"""The queues of targets in a real PostgreSQL: what `LeaseStore` and the ports of the delivery door promise."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.conformance.holding import held
from tests.conformance.postgres_queues import LOCK_S, Heard, context_of, opened, serving
from tests.support.postgres import PostgresProcess
from toril.bullmq.rules.job import JobOptions, JobSpec
from toril.core.access import RateLimit
from toril.core.errors import LeaseLost, StoreTimeout
from toril.core.lease import NOTHING, Lease, NoJob
from toril.core.verdict import Complete, Fail, Retry, Snooze
from toril.delivery.postgres_queue.leases import PostgresLeases
from toril.delivery.postgres_queue.queue import PostgresQueue
from toril.delivery.rules.destination import TargetRules

QUEUE = "deliver-billing"
DONE = Complete(b"null")
FAILED = Fail("no", "no")


@pytest.fixture
def url(postgres: PostgresProcess) -> str:
    return postgres.database()


@pytest.fixture
async def queue(url: str) -> AsyncIterator[PostgresQueue]:
    async for made in held(serving(url)):
        yield made


@pytest.fixture
def store(queue: PostgresQueue) -> PostgresLeases:
    return queue.leases.of(QUEUE, TargetRules(None))


def job(job_id: str, **options: int) -> JobSpec:
    return JobSpec("delivery", b"{}", JobOptions(jobId=job_id, **options))  # type: ignore[arg-type]


async def add(queue: PostgresQueue, *job_ids: str, **options: int) -> None:
    for job_id in job_ids:
        assert await queue.jobs.add(QUEUE, [job(job_id, **options)], 0) == [job_id.encode()]


async def taken(store: PostgresLeases, token: bytes = b"us:1") -> Lease:
    lease = await store.take(token)
    assert isinstance(lease, Lease)
    return lease


async def states(queue: PostgresQueue) -> dict[str, int]:
    counts = await queue.jobs.counts(QUEUE, ["waiting", "prioritized", "delayed", "active", "paused"])
    return {state: count for state, count in counts.items() if count}


async def test_an_empty_queue_has_nothing_to_lease(store: PostgresLeases) -> None:
    assert await store.take(b"us:1") == NOTHING


async def test_jobs_are_leased_by_priority_and_then_in_the_order_they_came(
    queue: PostgresQueue, store: PostgresLeases
) -> None:
    await add(queue, "late", priority=7)
    await add(queue, "soon", priority=2)
    await add(queue, "b", "a", "c")
    leased = [(await taken(store, b"us:%d" % number)).job_id for number in range(5)]
    assert leased == [b"b", b"a", b"c", b"soon", b"late"]
    assert await states(queue) == {"active": 5}


async def test_adding_a_job_again_changes_nothing(queue: PostgresQueue, store: PostgresLeases) -> None:
    await add(queue, "a", "a", "b")
    lease = await taken(store)
    await add(queue, "a")
    assert lease.job_id == b"a"
    assert await states(queue) == {"active": 1, "waiting": 1}
    assert await queue.jobs.missing(QUEUE, ["a", "b", "c"]) == ["c"]


async def test_no_job_is_leased_twice_by_two_instances(url: str, queue: PostgresQueue, store: PostgresLeases) -> None:
    await queue.jobs.add(QUEUE, [job(f"job-{number}") for number in range(60)], 0)
    async with serving(url, "other") as other:
        stores = [store, other.leases.of(QUEUE, TargetRules(None))]
        async with asyncio.TaskGroup() as tasks:
            takes = [tasks.create_task(stores[number % 2].take(b"us:%d" % number)) for number in range(100)]
    leased = Counter(lease.job_id for take in takes if isinstance(lease := take.result(), Lease))
    assert set(leased.values()) == {1}
    # A job that the other instance looks at in the same moment is passed over; the next look finds it.
    while isinstance(lease := await store.take(b"us:later"), Lease):
        leased[lease.job_id] += 1
    assert leased == Counter({b"job-%d" % number: 1 for number in range(60)})


async def test_a_delayed_job_is_told_of_and_leased_in_its_time(queue: PostgresQueue, store: PostgresLeases) -> None:
    before = time.time()
    await add(queue, "late", delay=60_000)
    await add(queue, "soon", delay=150)
    found = await store.take(b"us:1")
    assert isinstance(found, NoJob)
    assert found.next_at_s == pytest.approx(before + 0.15, abs=2)
    await asyncio.sleep(max(0.0, found.next_at_s - time.time()) + 0.01)
    assert (await taken(store)).job_id == b"soon"
    found = await store.take(b"us:2")
    assert isinstance(found, NoJob)
    assert found.next_at_s == pytest.approx(before + 60, abs=5)


async def test_settling_leases_the_next_job_under_the_same_token(queue: PostgresQueue, store: PostgresLeases) -> None:
    await add(queue, "a", "b", "c", "d")
    found = await store.complete(await taken(store), DONE, fetch_next=True)
    assert isinstance(found, Lease)
    found = await store.fail(found, FAILED, fetch_next=True)
    assert isinstance(found, Lease)
    found = await store.retry(found, Retry(60_000, "no", "no"), fetch_next=True)
    assert isinstance(found, Lease)
    assert (found.job_id, found.token) == (b"d", b"us:1")
    found = await store.snooze(found, Snooze(60_000, "no"), fetch_next=True)
    assert isinstance(found, NoJob)
    assert found.next_at_s > time.time() + 50
    assert await states(queue) == {"delayed": 2}


async def test_settling_leases_no_job_unless_asked_to(queue: PostgresQueue, store: PostgresLeases) -> None:
    await add(queue, "a", "b")
    assert await store.complete(await taken(store), DONE, fetch_next=False) is None
    assert await states(queue) == {"waiting": 1}


async def test_a_released_job_is_next_and_a_retried_one_last(queue: PostgresQueue, store: PostgresLeases) -> None:
    await add(queue, "a", "b", "c")
    await store.retry(await taken(store), Retry(0, "no", "no"), fetch_next=False)
    await store.release(await taken(store))
    assert [(await taken(store, b"us:%d" % number)).job_id for number in range(3)] == [b"b", b"c", b"a"]


async def test_a_lease_that_is_not_ours_settles_nothing(queue: PostgresQueue, store: PostgresLeases) -> None:
    await add(queue, "a", "b")
    lease = await taken(store)
    await store.release(lease)
    again = await taken(store, b"them:1")
    for settling in (
        store.complete(lease, DONE, fetch_next=True),
        store.fail(lease, FAILED, fetch_next=True),
        store.retry(lease, Retry(5, "no", "no"), fetch_next=True),
        store.snooze(lease, Snooze(5, "no"), fetch_next=True),
        store.release(lease),
        store.count_stall(lease),
    ):
        with pytest.raises(LeaseLost):
            await settling
    assert await states(queue) == {"active": 1, "waiting": 1}
    assert again.job_id == b"a"
    assert await store.left_s(lease) is None
    assert await store.left_s(again) == pytest.approx(LOCK_S, abs=5)


async def test_a_cancelled_job_is_gone_and_every_instance_is_told(url: str, queue: PostgresQueue) -> None:
    store, heard = queue.leases.of(QUEUE, TargetRules(None)), Heard()
    async with serving(url, "other", heard) as other:
        other.waits.watch("deliver-other", lambda _: None)
        await add(queue, "a")
        lease = await taken(store)
        while not heard.jobs:
            # Until it listens, what is announced is missed: a worker then finds out when it renews its lease.
            await queue.jobs.cancel(QUEUE, "a")
            await asyncio.sleep(0.05)
        assert heard.jobs[0] == (QUEUE, b"a")
    assert await store.extend([lease]) == {b"a"}
    assert not await queue.jobs.cancel(QUEUE, "a")
    with pytest.raises(LeaseLost):
        await store.complete(lease, DONE, fetch_next=False)


async def test_leases_that_lapsed_come_back_to_the_head(url: str, queue: PostgresQueue, store: PostgresLeases) -> None:
    await add(queue, "a")
    await taken(store)
    await add(queue, "b")
    found, locked_s = await store.recover_abandoned()
    assert (found, locked_s) == ([], pytest.approx(LOCK_S, abs=5))
    assert await store.recover_stalled() == []
    async with opened(url) as database:
        await database.fetch("UPDATE toril_jobs SET locked_until = 0 WHERE job_id = 'a'")
    assert await store.recover_abandoned() == ([b"a"], 0.0)
    assert [(await taken(store, b"us:%d" % number)).job_id for number in range(2)] == [b"a", b"b"]


async def test_jobs_held_by_tokens_in_doubt_are_found(queue: PostgresQueue, store: PostgresLeases) -> None:
    await add(queue, "a", "b")
    for number in range(2):
        await taken(store, b"us:%d" % number)
    found = await store.adopt([b"us:1", b"us:9"])
    assert [(lease.job_id, lease.token) for lease in found] == [(b"b", b"us:1")]


async def test_a_rate_limit_counts_for_all_instances_and_says_when_to_look_again(url: str) -> None:
    limited = TargetRules(RateLimit(3, 30.0))
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(serving(url, name)) for name in ("one", "other")]
        await one.jobs.add(QUEUE, [job(f"job-{number}") for number in range(9)], 0)
        stores = [each.leases.of(QUEUE, limited) for each in (one, other)]
        found = [await stores[number % 2].take(b"us:%d" % number) for number in range(6)]
        assert [isinstance(one, Lease) for one in found] == [True] * 3 + [False] * 3
        assert isinstance(found[-1], NoJob)
        assert found[-1].retry_in_s == pytest.approx(30, abs=10)
        assert isinstance(found[0], Lease)
        after = await stores[0].complete(found[0], DONE, fetch_next=True)
        assert isinstance(after, NoJob)
        assert after.retry_in_s > 0
        await one.control.let_go(QUEUE)
        assert isinstance(await stores[1].take(b"us:7"), Lease)


async def test_a_paused_or_held_target_has_no_job_until_it_goes_on(queue: PostgresQueue, store: PostgresLeases) -> None:
    await add(queue, "a", "b")
    await queue.control.pause(QUEUE)
    await queue.control.pause(QUEUE)
    assert await queue.control.paused(QUEUE)
    since_ms = await queue.control.paused_since_ms(QUEUE)
    assert since_ms is not None
    assert since_ms / 1000 == pytest.approx(time.time(), abs=5)
    assert await store.take(b"us:1") == NOTHING
    assert await states(queue) == {"paused": 2}
    await queue.control.resume(QUEUE)
    assert not await queue.control.paused(QUEUE)
    await queue.control.hold(QUEUE, 60_000)
    await queue.control.hold(QUEUE, 5)
    found = await store.take(b"us:1")
    assert isinstance(found, NoJob)
    assert found.retry_in_s == pytest.approx(60, abs=5)
    await queue.control.let_go(QUEUE)
    await taken(store)


async def test_another_instance_is_woken_by_jobs_and_by_a_target_that_goes_on(url: str, queue: PostgresQueue) -> None:
    async with serving(url, "other") as other:
        for doing in (
            lambda: add(queue, "a"),
            lambda: queue.control.resume(QUEUE),
            lambda: queue.control.let_go(QUEUE),
        ):
            woken = asyncio.Event()
            other.waits.watch(QUEUE, lambda at_s, woken=woken: woken.set())
            async with asyncio.timeout(30):
                await asyncio.sleep(0)
                await doing()
                await woken.wait()


async def test_what_comes_while_nobody_waits_wakes_the_next_one_that_does(queue: PostgresQueue) -> None:
    first, then = asyncio.Event(), asyncio.Event()
    queue.waits.watch(QUEUE, lambda _: first.set())
    await add(queue, "a")
    await asyncio.wait_for(first.wait(), 10)
    await add(queue, "b")
    queue.waits.watch(QUEUE, lambda _: then.set())
    await asyncio.wait_for(then.wait(), 10)


async def test_while_the_database_is_away_nothing_is_known_to_be_written(postgres: PostgresProcess) -> None:
    queue = PostgresQueue("postgresql://nobody@127.0.0.1:9/x", context_of("one"), lock_s=1)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(queue.run())
        with pytest.raises(StoreTimeout):
            await queue.leases.of(QUEUE, TargetRules(None)).take(b"us:1")
        with pytest.raises(StoreTimeout):
            await queue.jobs.add(QUEUE, [job("a")], 0)
        running.cancel()
