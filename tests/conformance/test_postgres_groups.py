"""Groups of deliveries in PostgreSQL: they start as the rules in Python say, and slots never leak."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from msgspec.structs import replace

from tests.conformance.group_histories import AGAIN, DONE, Both
from tests.conformance.holding import held
from tests.conformance.postgres_queues import opened, serving
from tests.support.postgres import PostgresProcess
from toril.bullmq.ports.groups import GroupStore
from toril.bullmq.rules.groups import GroupLimits, GroupOption
from toril.bullmq.rules.job import JobOptions, JobSpec
from toril.core.errors import GroupFull, LeaseLost
from toril.core.group_limits import GroupDefault, GroupRate
from toril.core.lease import NOTHING, Lease, NoJob
from toril.core.metrics import OTHER
from toril.delivery.postgres_queue.queue import PostgresQueue
from toril.delivery.postgres_queue.tables import NOW
from toril.delivery.rules.destination import TargetRules
from toril.engine.ports import LeaseStore
from toril.redis.absent import NoRedis

QUEUE = "deliver-billing"
AGES_MS = 10**9


@pytest.fixture
def url(postgres: PostgresProcess) -> str:
    return postgres.database()


@pytest.fixture
async def queue(url: str) -> AsyncIterator[PostgresQueue]:
    async for made in held(serving(url)):
        yield made


def leases(queue: PostgresQueue, concurrency: int | None = None, limit: GroupRate | None = None) -> LeaseStore:
    """The leases of the target, whose groups have these limits if they have none themselves."""
    return queue.leases.of(QUEUE, TargetRules(None, GroupDefault(concurrency, limit)))


async def add(queue: PostgresQueue, group: str | None, *job_ids: str, priority: int = 0, **more: Any) -> None:
    options = {} if group is None else {"group": GroupOption(group, priority)}
    jobs = [JobSpec("delivery", b"{}", JobOptions(jobId=one, **options, **more)) for one in job_ids]  # type: ignore[arg-type]
    for one in jobs:
        await queue.jobs.add(QUEUE, [one], 0)


async def taken(store: LeaseStore, token: bytes = b"us:1") -> Lease:
    lease = await store.take(token)
    assert isinstance(lease, Lease), lease
    return lease


async def order(store: LeaseStore, count: int) -> list[str]:
    """The ids of the next jobs that start; each ends at once."""
    found = []
    for _ in range(count):
        lease = await taken(store)
        found.append(lease.job_id.decode())
        await store.complete(lease, DONE, fetch_next=False)
    return found


async def left(url: str) -> dict[str, int]:
    """How many rows of groups there are, and how many targets are known to have groups."""
    async with opened(url) as database:
        ((groups, members, targets),) = await database.fetch(
            "SELECT (SELECT count(*) FROM toril_groups), (SELECT count(*) FROM toril_members), "
            "(SELECT count(*) FROM toril_queues WHERE grouped)"
        )
    return {"groups": groups, "members": members, "targets": targets}


NONE_LEFT = {"groups": 0, "members": 0, "targets": 0}


class InPostgres:
    """A `GroupedQueue` in PostgreSQL."""

    def __init__(self, queue: PostgresQueue, url: str, name: str) -> None:
        self._queue = queue
        self._url = url
        self._default: Callable[[], GroupDefault] = GroupDefault
        self.queue = name
        self.control: GroupStore = queue.groups

    @property
    def store(self) -> LeaseStore:
        return self._queue.leases.of(self.queue, TargetRules(None, self._default()))

    def follow(self, default: Callable[[], GroupDefault]) -> None:
        self._default = default

    async def add(self, job_id: str, group: str | None, priority: int) -> None:
        options = {} if group is None else {"group": GroupOption(group, priority)}
        job = JobSpec("delivery", b"{}", JobOptions(jobId=job_id, **options))  # type: ignore[arg-type]
        await self._queue.jobs.add(self.queue, [job], 0)

    async def lapse(self, lease: Lease) -> None:
        async with opened(self._url) as database:
            await database.fetch("UPDATE toril_jobs SET locked_until = 0 WHERE job_id = $1", lease.job_id.decode())
        await self.store.recover_abandoned()

    async def promote(self, job_id: str) -> bool:
        return False


HISTORIES = 12


async def test_the_functions_choose_as_the_rules_do_whatever_came_before(url: str, queue: PostgresQueue) -> None:
    for seed in range(HISTORIES):
        both = Both(InPostgres(queue, url, f"deliver-{seed}"), seed)
        try:
            for _ in range(60):
                await both.step()
            await both.finish()
        except AssertionError as exc:
            raise AssertionError(f"history {seed}") from exc
        assert await left(url) == NONE_LEFT, seed


async def test_a_target_without_groups_has_no_row_of_theirs(url: str, queue: PostgresQueue) -> None:
    await add(queue, None, "a", "b")
    assert await order(leases(queue), 2) == ["a", "b"]
    assert await left(url) == NONE_LEFT


async def test_a_job_of_another_group_is_among_the_next_two(queue: PostgresQueue) -> None:
    await add(queue, "many", *(f"many-{number}" for number in range(20)))
    store = leases(queue)
    await order(store, 5)
    await add(queue, "one", "late")
    assert "late" in await order(store, 2)


async def test_tenants_start_by_weight_and_one_with_many_ids_gains_nothing(queue: PostgresQueue) -> None:
    await queue.groups.set_limits(QUEUE, "heavy", GroupLimits(weight=3), paused=None)
    for number in range(40):
        await add(queue, "heavy", f"heavy-{number}")
        await add(queue, f"split/{number % 4}", f"split-{number}")
        await add(queue, None, f"plain-{number}")
    counts = Counter(job_id.partition("-")[0] for job_id in await order(leases(queue), 50))
    assert counts == {"heavy": 30, "split": 10, "plain": 10}


async def test_within_a_group_a_retry_goes_first_and_then_the_least_priority(queue: PostgresQueue) -> None:
    store = leases(queue)
    await add(queue, "a", "tried", priority=9)
    await store.retry(await taken(store), AGAIN, fetch_next=False)
    await add(queue, "a", "late", priority=7)
    await add(queue, "a", "soon", "next")
    assert await order(store, 4) == ["tried", "soon", "next", "late"]


async def test_a_slot_is_free_when_its_lease_has_lapsed_and_the_old_one_is_lost(url: str) -> None:
    async with serving(url, lock_s=0.3) as queue:
        store = leases(queue, concurrency=1)
        await add(queue, "a", "first", "second")
        lease = await taken(store)
        found = await store.take(b"us:2")
        assert isinstance(found, NoJob)
        assert found.next_at_s > 0, "it says when to look again"
        await asyncio.sleep(0.35)
        assert (await taken(store, b"us:3")).job_id == b"first", "what was tried goes first"
        assert isinstance(await store.take(b"us:4"), NoJob), "and it holds the only slot"
        assert await store.extend([lease]) == {b"first"}
        with pytest.raises(LeaseLost):
            await store.complete(lease, DONE, fetch_next=False)


async def test_a_renewed_lease_keeps_its_slot(url: str) -> None:
    async with serving(url, lock_s=0.5) as queue:
        store = leases(queue, concurrency=1)
        await add(queue, "a", "first", "second")
        lease = await taken(store)
        for number in range(3):
            await asyncio.sleep(0.25)
            assert await store.extend([lease]) == set()
            assert isinstance(await store.take(b"us:%d" % (number + 2)), NoJob)
        found = await store.complete(lease, DONE, fetch_next=True)
        assert isinstance(found, Lease)
        assert found.job_id == b"second"


async def test_a_limit_of_one_never_runs_two_over_several_instances(url: str) -> None:
    running: Counter[str] = Counter()
    done: list[str] = []

    async def work(queue: PostgresQueue, token: str) -> None:
        store, number = leases(queue, concurrency=1), 0
        while len(done) < 60:
            number += 1
            found: Any = await store.take(f"{token}:{number}".encode())
            if not isinstance(found, Lease):
                await asyncio.sleep(0.005)
            while isinstance(found, Lease):
                group = found.job_id.decode()[0]
                running[group] += 1
                assert running[group] == 1
                await asyncio.sleep(0.002)
                running[group] -= 1
                done.append(found.job_id.decode())
                found = await store.complete(found, DONE, fetch_next=number % 3 > 0)

    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(serving(url, f"i-{number}")) for number in range(3)]
        for number in range(20):
            for group in "abc":
                await add(queues[number % 3], group, f"{group}-{number}")
        async with asyncio.TaskGroup() as tasks:
            for number in range(9):
                tasks.create_task(work(queues[number % 3], f"w-{number}"))
        assert sorted(done) == sorted(f"{group}-{number}" for group in "abc" for number in range(20))
        assert isinstance(await leases(queues[0]).take(b"us:1"), NoJob)
    assert await left(url) == NONE_LEFT


async def test_a_rate_is_that_of_the_fleet_and_says_when_to_look_again(queue: PostgresQueue) -> None:
    store = leases(queue, limit=GroupRate(2, AGES_MS))
    await add(queue, "a", "1", "2", "3")
    await add(queue, "b", "4")
    assert sorted(await order(store, 3)) == ["1", "2", "4"]
    found = await store.take(b"us:2")
    assert isinstance(found, NoJob)
    state = replace(await queue.groups.get(QUEUE, "a"), default=GroupDefault(limit=GroupRate(2, AGES_MS)))
    assert state.held_until_ms(0) == pytest.approx(found.next_at_s * 1000, abs=1)
    await queue.groups.set_limits(QUEUE, "a", GroupLimits(limit=GroupRate(1, AGES_MS)), paused=None)
    assert await order(store, 1) == ["3"], "a new rate starts afresh"


async def test_a_rate_lets_the_next_job_start_in_time(queue: PostgresQueue) -> None:
    store = leases(queue, limit=GroupRate(1, 300))
    await add(queue, "a", "1", "2")
    await order(store, 1)
    assert isinstance(await store.take(b"us:2"), NoJob)
    await asyncio.sleep(0.35)
    assert await order(store, 1) == ["2"]


async def test_a_paused_group_waits_and_its_limits_and_pause_are_kept(queue: PostgresQueue) -> None:
    store, limits = leases(queue), GroupLimits(concurrency=2, weight=5, max_waiting=9)
    await queue.groups.set_limits(QUEUE, "a", limits, paused=True)
    await add(queue, "a", "held")
    assert await store.take(b"us:1") == NOTHING
    state = await queue.groups.get(QUEUE, "a")
    assert (state.waiting, state.active, state.limits.paused, state.limits.weight) == (1, 0, True, 5)
    await queue.groups.resume(QUEUE, "a")
    assert (await queue.groups.get(QUEUE, "a")).limits == limits
    assert await order(store, 1) == ["held"]


async def test_a_delayed_job_waits_in_its_group_when_it_is_due(queue: PostgresQueue) -> None:
    store = leases(queue, concurrency=1)
    await add(queue, "a", "first")
    await taken(store)
    await add(queue, "a", "later", delay=100)
    await asyncio.sleep(0.15)
    assert isinstance(await store.take(b"us:2"), NoJob)
    assert (await queue.groups.get(QUEUE, "a")).waiting == 1


async def test_a_cancelled_job_frees_its_slot_and_wakes_others(queue: PostgresQueue) -> None:
    store = leases(queue, concurrency=1)
    await add(queue, "a", "first", "second", "third")
    await taken(store)
    assert isinstance(await store.take(b"us:2"), NoJob)
    woken: list[float] = []
    queue.waits.watch(QUEUE, woken.append)
    await queue.jobs.cancel(QUEUE, "first")
    assert woken == [0.0]
    await queue.jobs.cancel(QUEUE, "second")
    assert (await taken(store, b"us:3")).job_id == b"third"


async def test_a_settled_job_wakes_others_if_its_worker_takes_no_more(queue: PostgresQueue) -> None:
    store = leases(queue, concurrency=1)
    await add(queue, "a", "first", "second")
    lease = await taken(store)
    assert isinstance(await store.take(b"us:2"), NoJob)
    woken: list[float] = []
    queue.waits.watch(QUEUE, woken.append)
    await store.complete(lease, DONE, fetch_next=False)
    assert woken == [0.0]


async def test_no_more_jobs_are_let_in_than_may_wait(queue: PostgresQueue) -> None:
    await queue.groups.set_limits(QUEUE, "a", GroupLimits(max_waiting=2), paused=None)

    groups = queue.groups
    for name in ("1", "2"):
        await groups.take_room(QUEUE, "a", name)
    with pytest.raises(GroupFull):
        await groups.take_room(QUEUE, "a", "3")
    await groups.free_room(QUEUE, "a", "2")
    await groups.take_room(QUEUE, "a", "3")
    await add(queue, "a", "1", "3")
    await groups.take_room(QUEUE, "b", "4")
    with pytest.raises(GroupFull):
        await groups.take_room(QUEUE, "a", "5")
    store = leases(queue)
    await store.release(await taken(store))
    await groups.take_room(QUEUE, "a", "5")  # what was tried does not count


async def has_room(queue: PostgresQueue, job_id: str) -> bool:
    """Take room for a job of the group a; whether there was some."""
    try:
        await queue.groups.take_room(QUEUE, "a", job_id)
    except GroupFull:
        return False
    return True


async def test_instances_do_not_pass_the_limit_together_while_they_accept_and_add(url: str) -> None:
    async with AsyncExitStack() as stack:
        queues = [await stack.enter_async_context(serving(url, f"i-{number}")) for number in range(3)]
        await queues[0].groups.set_limits(QUEUE, "a", GroupLimits(max_waiting=7), paused=True)

        async def accepted(number: int) -> bool:
            queue, job_id = queues[number % 3], f"j-{number}"
            if not await has_room(queue, job_id):
                return False
            await add(queue, "a", job_id)
            return True

        async with asyncio.TaskGroup() as tasks:
            accepting = [tasks.create_task(accepted(number)) for number in range(60)]
        assert sum(task.result() for task in accepting) == 7
        assert (await queues[1].groups.get(QUEUE, "a")).waiting == 7
    async with opened(url) as database:
        assert await database.fetch("SELECT FROM toril_rooms") == [], "adding a job uses its room up"


async def test_room_that_was_taken_and_never_used_is_free_after_a_while(url: str, queue: PostgresQueue) -> None:
    await queue.groups.set_limits(QUEUE, "a", GroupLimits(max_waiting=1), paused=None)
    assert await has_room(queue, "lost")
    assert await has_room(queue, "lost"), "it has its room"
    assert not await has_room(queue, "next")
    async with opened(url) as database:
        ((left_s,),) = await database.fetch(f"SELECT until - {NOW} FROM toril_rooms")
        assert 0 < left_s <= 10
        await database.fetch("UPDATE toril_rooms SET until = 0")
    assert await has_room(queue, "next")


async def test_groups_are_listed_in_pages_and_drained(url: str, queue: PostgresQueue) -> None:
    await queue.groups.set_limits(QUEUE, "limited", GroupLimits(concurrency=1), paused=None)
    for name in ("b", "a", "c"):
        await add(queue, name, f"{name}-1", f"{name}-2")
    lease = await taken(leases(queue))
    found, has_more = await queue.groups.page(QUEUE, "", 2, lambda _: True)
    assert ([(one.id, one.waiting, one.active) for one in found], has_more) == ([("a", 1, 1), ("b", 2, 0)], True)
    found, has_more = await queue.groups.page(QUEUE, "b", 5, lambda name: name != "c")
    assert ([one.id for one in found], has_more) == (["limited"], False)
    assert [await queue.groups.drain(QUEUE, name) for name in ("a", "b", "c", "d")] == [1, 2, 2, 0]
    await queue.groups.remove_limits(QUEUE, "limited")
    assert (await queue.groups.get(QUEUE, "limited")).limits == GroupLimits()
    await leases(queue).complete(lease, DONE, fetch_next=True)
    assert await left(url) == NONE_LEFT
    with pytest.raises(NoRedis):
        await queue.groups.get("orders", "a")


async def test_the_largest_groups_are_read_with_the_depth_of_the_queue(queue: PostgresQueue) -> None:
    for number in range(22):
        await add(queue, f"g-{number:02}", *(f"{number}-{one}" for one in range(1 + (number == 7))))
    lease = await taken(leases(queue))
    (depth,) = await queue.jobs.read([QUEUE])
    assert (depth.groups[0].group, depth.groups[0].waiting + depth.groups[0].active) == ("g-07", 2)
    assert (depth.groups[-1].group, depth.groups[-1].waiting, len(depth.groups)) == (OTHER, 2, 21)
    assert sum(one.active for one in depth.groups) == 1
    assert lease.job_id == b"0-0"


async def test_a_job_waits_for_a_long_change_of_its_target_and_is_not_refused(url: str, queue: PostgresQueue) -> None:
    await add(queue, "a", "first")
    async with opened(url) as database, asyncio.TaskGroup() as tasks:
        async with database.transaction() as connection:
            await connection.execute("SELECT FROM toril_queues FOR UPDATE")
            adding = tasks.create_task(add(queue, "a", "second"))
            taking = tasks.create_task(taken(leases(queue)))
            await asyncio.sleep(0.8)  # the ledger's statements would give up after half of it
            assert not adding.done()
        await adding
        assert (await taking).job_id == b"first"
    assert await order(leases(queue), 1) == ["second"]
