"""Draining and cleaning on a real Valkey: exactly what is to be removed, in short steps, while others work."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis

from tests.conformance.worlds import RealWorld
from toril.bullmq.job_actions import JobActions
from toril.bullmq.keys import QueueKeys
from toril.bullmq.lua import sweeps as module
from toril.bullmq.lua.queue_script import QueueScript
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.lua.sweeps import MOST, Sweeps
from toril.bullmq.rules.scheduler import read_scheduler
from toril.bullmq.time_zones import read_zone
from toril.core.lease import NOTHING, Lease
from toril.core.verdict import Complete


@pytest.fixture
def sweeps(world: RealWorld) -> Sweeps:
    return Sweeps(world.scripts, "bull")


async def scheduled(world: RealWorld, name: str, **opts: Any) -> bytes:
    """A scheduler's next job, which waits now."""
    spec = b'{"every":3600000,"template":{"name":"tick","data":{"of":"%b"}}}' % name.encode()
    await world.book.schedulers.put(world.queue, name, read_scheduler(spec, read_zone))
    prefix = f"repeat:{name}:".encode()
    delayed = await world.link.call("ZRANGE", world.keys.key("delayed"), 0, -1)
    waiting = await world.waiting()
    (job_id,) = [job_id for job_id in [*delayed, *waiting] if job_id.startswith(prefix)]
    if job_id in delayed:
        await JobActions(world.scripts, "bull", time.time).promote(world.queue, job_id.decode())
    return bytes(job_id)


async def everything(world: RealWorld) -> set[bytes]:
    """The ids of all hashes of jobs."""
    keys = await world.link.call("KEYS", world.keys.key("*"))
    ids = {key.removeprefix(world.keys.prefix) for key in keys}
    types = {job_id: await world.link.call("TYPE", world.keys.key(job_id)) for job_id in ids}
    return {
        job_id for job_id, kind in types.items() if kind == b"hash" and job_id != b"meta" and job_id.count(b":") != 1
    }


class Steps(Scripts):
    """Scripts of which each call of a sweep is noted, and something may happen behind it."""

    def __init__(self, world: RealWorld) -> None:
        super().__init__(world.link)
        self.removed: list[int] = []
        self.looked: list[int] = []
        self.behind: Callable[[], Awaitable[object]] | None = None

    async def call(self, script: QueueScript, queue: QueueKeys, *arguments: Any, **named: Any) -> Any:
        reply = await super().call(script, queue, *arguments, **named)
        self.removed.append(len(reply[0]))
        self.looked.append(reply[2])
        if self.behind is not None:
            await self.behind()
        return reply


@pytest.mark.parametrize("place", ["oldest", "middle", "newest"])
async def test_a_schedulers_job_outlives_a_drain_and_goes_on(world: RealWorld, sweeps: Sweeps, place: str) -> None:
    tick = b""
    for number, here in enumerate(("oldest", "middle", "newest")):
        if here == place:
            tick = await scheduled(world, "hourly")
        else:
            await world.add(f"job-{number}")
    assert await sweeps.drain(world.queue, delayed=True) == 2
    assert await world.waiting() == [tick]
    assert await everything(world) == {tick}
    lease = await world.store.take(b"us:1")
    assert isinstance(lease, Lease)
    assert (lease.job_id, lease.fields[b"data"]) == (tick, b'{"of":"hourly"}')
    await world.store.schedule_next(lease)
    (following,) = await world.link.call("ZRANGE", world.keys.key("delayed"), 0, -1)
    assert following.startswith(b"repeat:hourly:")


async def test_a_drain_removes_all_waiting_jobs_and_nothing_else(
    world: RealWorld, sweeps: Sweeps, store: redis.Redis
) -> None:
    for job_id in ("busy", "done", "a", "b"):
        await world.add(job_id)
    for token in (b"us:1", b"us:2"):
        lease = await world.store.take(token)
        assert isinstance(lease, Lease)
        if lease.job_id == b"done":
            await world.store.complete(lease, Complete(b"1"), fetch_next=False)
    await world.add("later", delay_s=600)
    for priority in (1, 7, 7):
        await world.add(f"p-{priority}-{time.monotonic_ns()}", opts={"priority": priority})
    await world.add("aside")
    store.lrem(f"bull:{world.queue}:wait", 1, "aside")
    store.lpush(f"bull:{world.queue}:paused", "aside")
    assert await sweeps.drain(world.queue, delayed=False) == 6
    assert await everything(world) == {b"busy", b"done", b"later"}
    assert await sweeps.drain(world.queue, delayed=True) == 1
    assert await everything(world) == {b"busy", b"done"}
    assert await world.store.take(b"us:3") == NOTHING


async def test_no_step_looks_at_more_than_it_may(world: RealWorld) -> None:
    steps = Steps(world)
    ids = [f"job-{number}" for number in range(3 * MOST)]
    for job_id in ids[: 2 * MOST]:
        await world.add(job_id)
    for job_id in ids[2 * MOST :]:
        await world.add(job_id, opts={"priority": 1})
    assert await Sweeps(steps, "bull").drain(world.queue, delayed=True) == len(ids)
    assert max(steps.looked) <= MOST
    assert await everything(world) == set()


async def test_a_step_ends_after_its_time(world: RealWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET_MS", 0)
    steps = Steps(world)
    for number in range(5):
        await world.add(f"job-{number}")
        await world.add(f"prioritized-{number}", opts={"priority": 1})
    assert await Sweeps(steps, "bull").drain(world.queue, delayed=False) == 10
    assert max(steps.looked) == 1


@pytest.mark.parametrize("opts", [{}, {"priority": 5}], ids=["waiting", "prioritized"])
async def test_workers_and_producers_go_on_during_a_drain(
    world: RealWorld, monkeypatch: pytest.MonkeyPatch, opts: dict[str, int]
) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    steps = Steps(world)
    taken: list[bytes] = []
    added: list[bytes] = []
    ticks = [await scheduled(world, "first")] if not opts else []
    before = [await world.add(f"old-{number}", opts=opts) for number in range(30)]

    async def meanwhile() -> None:
        added.append(await world.add(f"new-{len(added)}", opts=opts))
        if len(taken) < 5:
            lease = await world.store.take(b"us:%d" % len(taken))
            assert isinstance(lease, Lease)
            assert lease.fields[b"name"]
            taken.append(lease.job_id)

    steps.behind = meanwhile
    removed = await Sweeps(steps, "bull").drain(world.queue, delayed=False)
    assert removed + len(set(taken) & set(before)) == len(before)
    assert await everything(world) == {*ticks, *added, *taken}
    assert set(await world.waiting()) | set(await world.link.call("ZRANGE", world.keys.key("prioritized"), 0, -1)) == {
        *ticks,
        *added,
    } - set(taken)


async def test_a_drain_keeps_jobs_added_after_a_worker_took_the_last_one(
    world: RealWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 1)
    steps = Steps(world)
    for number in range(4):
        await world.add(f"old-{number}")

    async def meanwhile() -> None:
        steps.behind = None
        while isinstance(await world.store.take(b"us:1"), Lease):
            pass
        for number in range(4):
            await world.add(f"new-{number}")

    steps.behind = meanwhile
    assert await Sweeps(steps, "bull").drain(world.queue, delayed=False) == 1
    assert await world.waiting() == [b"new-0", b"new-1", b"new-2", b"new-3"]


async def test_a_parent_does_not_wait_for_drained_children(world: RealWorld, sweeps: Sweeps) -> None:
    parents = QueueKeys("bull", f"{world.queue}-parents")
    parent = parents.key("p")
    await world.link.call("HSET", parent, "name", "p", "data", "{}", "opts", "{}", "timestamp", 1)
    await world.link.call("ZADD", parents.key("waiting-children"), 1, "p")
    for number in range(3):
        child = await world.add(f"c-{number}", fields={b"parentKey": parent})
        await world.link.call("SADD", parent + b":dependencies", world.keys.key(child))
    assert await sweeps.drain(world.queue, delayed=False) == 3
    assert await world.link.call("LRANGE", parents.key("wait"), 0, -1) == [b"p"]


async def test_the_parent_of_drained_children_waits_where_bullmq_5_finds_it(world: RealWorld, sweeps: Sweeps) -> None:
    parents = QueueKeys("bull", f"{world.queue}-parents")
    parent = parents.key("p")
    await world.link.call("HSET", parents.key("meta"), "paused", 1, "version", "bullmq:5.81.5")
    await world.link.call("HSET", parent, "name", "p", "data", "{}", "opts", "{}", "timestamp", 1)
    await world.link.call("ZADD", parents.key("waiting-children"), 1, "p")
    child = await world.add("c", fields={b"parentKey": parent})
    await world.link.call("SADD", parent + b":dependencies", world.keys.key(child))
    assert await sweeps.drain(world.queue, delayed=False) == 1
    assert await world.link.call("LRANGE", parents.key("paused"), 0, -1) == [b"p"]


@pytest.mark.parametrize("state", ["wait", "paused", "prioritized", "delayed"])
async def test_cleaning_finds_old_jobs_behind_newer_ones(
    world: RealWorld, sweeps: Sweeps, store: redis.Redis, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    opts = {"prioritized": {"priority": 1}, "delayed": {"delay": 600_000}}.get(state, {})
    for number in range(10):
        await world.add(f"job-{number}", opts=opts)
        # An old job's time has fewer digits: it is a number, and no text, that is compared.
        old = number % 5 == 4
        store.hset(f"bull:{world.queue}:job-{number}", "timestamp", 999 if old else 5000)
    if state == "paused":
        store.rename(f"bull:{world.queue}:wait", f"bull:{world.queue}:paused")
    assert await sweeps.clean(world.queue, state, 1000, 0) == [b"job-4", b"job-9"]
    assert await sweeps.clean(world.queue, state, 6000, 3) == [b"job-0", b"job-1", b"job-2"]
    assert len(await everything(world)) == 5


async def test_cleaning_active_jobs_keeps_those_with_a_lock(world: RealWorld, sweeps: Sweeps) -> None:
    for number in range(4):
        await world.add(f"job-{number}")
        assert isinstance(await world.store.take(b"us:%d" % number), Lease)
    for job_id in (b"job-1", b"job-3"):
        await world.lapse(job_id)
    assert await sweeps.clean(world.queue, "active", int(world.now() * 1000) + 1000, 0) == [b"job-1", b"job-3"]
    assert await world.link.call("LRANGE", world.keys.key("active"), 0, -1) == [b"job-2", b"job-0"]


@pytest.mark.parametrize("limit", [0, 4])
async def test_finished_jobs_are_cleaned_in_the_order_of_their_end(
    world: RealWorld, sweeps: Sweeps, store: redis.Redis, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    ids = []
    for number in range(6):
        ids.append(await world.add(f"job-{number}"))
        lease = await world.store.take(b"us:1")
        assert isinstance(lease, Lease)
        await world.store.complete(lease, Complete(b"1"), fetch_next=False)
        store.zadd(f"bull:{world.queue}:completed", {f"job-{number}": 100 + number})
    assert await sweeps.clean(world.queue, "completed", 104, limit) == ids[: limit or 5]
    assert store.xrevrange(f"bull:{world.queue}:events", count=1)[0][1] == {
        "event": "cleaned", "count": str(limit or 5)
    }  # fmt: skip
