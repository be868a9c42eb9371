"""Statistics in a real Valkey and PostgreSQL: what processes write adds up, is read back as series, and expires."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
from msgspec import Struct

from tests.conformance.bullmq.links import PATIENT, address_of, linked, quick, up
from tests.conformance.holding import held
from tests.conformance.postgres_queues import opened
from tests.support.ports import free_port
from tests.support.postgres import PostgresProcess
from tests.support.valkey import ValkeyProcess
from toril.core.metrics import JOB_SECONDS, JOBS_ADDED, WAIT_SECONDS
from toril.delivery.postgres_queue.database import QueueDatabase
from toril.delivery.postgres_queue.statistics import PostgresFailures, PostgresPoints
from toril.instance.stats import FleetPoints
from toril.redis.connection import Link
from toril.redis.policy import RedisAddress
from toril.telemetry.failures import Failures, FleetFailures
from toril.telemetry.prometheus_meter import PrometheusMeter
from toril.telemetry.redis_failures import RedisFailures
from toril.telemetry.redis_points import RedisPoints
from toril.telemetry.rules.points import (
    ACCEPTED,
    FINISHED,
    MINUTES,
    RESOLUTIONS,
    WAITS,
    WINDOWS,
    Resolution,
    door_scope,
    queue_scope,
)
from toril.telemetry.rules.series import counted
from toril.telemetry.statistics import Statistics
from toril.testing import FakeClock

NOW_S = 1_795_992_300.0


@pytest.fixture
async def link(valkey: ValkeyProcess) -> AsyncIterator[Link]:
    async for made in held(up(address_of(valkey), PATIENT)):
        yield made


@pytest.fixture
def points(link: Link, queue: str) -> RedisPoints:
    """Those under a prefix that no other test has."""
    return RedisPoints(link, queue)


class FleetStore(Struct, frozen=True):
    """Where a fleet has its statistics; `failures` makes what has its failures, by a clock."""

    points: FleetPoints
    failures: Callable[[FakeClock], FleetFailures]


@pytest.fixture(params=["redis", "postgres"])
async def store(request: pytest.FixtureRequest, queue: str) -> AsyncIterator[FleetStore]:
    if request.param == "postgres":
        postgres: PostgresProcess = request.getfixturevalue("postgres")
        async for database in held(opened(postgres.database())):
            yield FleetStore(PostgresPoints(database), partial(PostgresFailures, database))
        return
    valkey: ValkeyProcess = request.getfixturevalue("valkey")
    async for link in held(up(address_of(valkey), PATIENT)):
        yield FleetStore(RedisPoints(link, queue), partial(RedisFailures, link, queue))


class Process:
    """What one process of toril has of it."""

    def __init__(self, store: FleetStore, clock: FakeClock, folder: Path | None = None) -> None:
        self.meter = PrometheusMeter(1, clock, None if folder is None else str(folder))
        self.failures = Failures()
        self.fleets_failures = store.failures(clock)
        self.statistics = Statistics(
            self.meter, store.points, self.failures, self.fleets_failures, lambda _: "queues", clock
        )

    def add(self, queue: str, jobs: int) -> None:
        self.meter.count(JOBS_ADDED, (queue,), jobs)


async def accepted(points: FleetPoints, queue: str, now_s: float, window: str = "1h") -> list[int]:
    scope = queue_scope(queue)
    return counted((await points.read([scope], WINDOWS[window], now_s))[scope], ACCEPTED)


async def test_counts_are_added_to_what_a_point_has(store: FleetStore) -> None:
    scope, slot, points = queue_scope("orders"), MINUTES.slot(NOW_S), store.points
    for counts in ({ACCEPTED: 2, WAITS: 1}, {ACCEPTED: 3_000_000_000, FINISHED: 1}):
        assert await points.add(MINUTES, {(scope, slot): counts, (scope, slot - 1): {FINISHED: 7}}) == {}
    *before, last, now = (await points.read([scope], WINDOWS["1h"], NOW_S))[scope]
    assert now == {ACCEPTED: 3_000_000_002, WAITS: 1, FINISHED: 1}
    assert last == {FINISHED: 14}
    assert before == [{}] * 58


async def test_a_queue_without_traffic_has_no_key_and_is_read_as_nothing(points: RedisPoints, link: Link) -> None:
    assert await accepted(points, "idle", NOW_S) == [0] * 60
    assert await accepted(points, "idle", NOW_S, "7d") == [0] * 168
    assert await link.call("EXISTS", queue_scope("idle").key("bull", MINUTES, MINUTES.block(MINUTES.slot(NOW_S)))) == 0


@pytest.mark.parametrize("resolution", RESOLUTIONS, ids=lambda one: one.name)
async def test_blocks_are_compact_and_expire(
    points: RedisPoints, link: Link, queue: str, resolution: Resolution
) -> None:
    scope = queue_scope("orders")
    first = resolution.block(resolution.slot(NOW_S)) * resolution.block_s // resolution.step_s
    each = {ACCEPTED: 1000, FINISHED: 1000, **{WAITS + number: 100_000 for number in range(6)}}
    slots = range(first, first + resolution.block_s // resolution.step_s)
    await points.add(resolution, {(scope, slot): each for slot in slots})
    key = scope.key(queue, resolution, resolution.block(first))
    assert 0 < await link.call("TTL", key) <= resolution.life_s
    assert await link.call("OBJECT", "ENCODING", key) == b"listpack"


async def test_counts_of_several_processes_are_added_once_each(store: FleetStore) -> None:
    clock, points = FakeClock(NOW_S), store.points
    ours, theirs = Process(store, clock), Process(store, clock)
    ours.add("orders", 3)
    ours.add("mails", 1)  # beyond what /metrics shows by name
    theirs.add("orders", 4)
    async with asyncio.TaskGroup() as tasks:
        for process in (ours, theirs, ours):
            tasks.create_task(process.statistics.flush())
    for window in WINDOWS:
        assert (await accepted(points, "orders", NOW_S, window))[-1] == 7
        assert (await accepted(points, "mails", NOW_S, window))[-1] == 1
        door = door_scope("queues")
        assert counted((await points.read([door], WINDOWS[window], NOW_S))[door], ACCEPTED)[-1] == 8


async def test_points_move_on_with_time(store: FleetStore) -> None:
    clock, points = FakeClock(NOW_S), store.points
    process = Process(store, clock)
    for minute in range(3):
        process.add("orders", minute + 1)
        process.meter.observe(JOB_SECONDS, ("orders", "complete"), 0.1)
        process.meter.observe(WAIT_SECONDS, ("push_worker", "orders"), 0.1)
        await process.statistics.flush()
        clock.jump(60.0)
    assert (await accepted(points, "orders", clock()))[-5:] == [0, 1, 2, 3, 0]
    assert sum(await accepted(points, "orders", clock(), "24h")) == 6
    assert sum(await accepted(points, "orders", clock() + 3600)) == 0
    assert sum(await accepted(points, "orders", clock() + 3600, "7d")) == 6


async def test_a_process_that_is_started_again_does_not_count_twice(store: FleetStore, tmp_path: Path) -> None:
    clock, points = FakeClock(NOW_S), store.points
    before = Process(store, clock, tmp_path)
    before.add("orders", 3)
    await before.statistics.flush()
    await before.meter.share()
    after = Process(store, clock, tmp_path)
    assert dict(after.meter.snapshot().metrics[JOBS_ADDED.name]) == {("orders",): [3.0]}
    await after.statistics.flush()
    after.add("orders", 1)
    await after.statistics.flush()
    assert (await accepted(points, "orders", NOW_S))[-1] == 4


async def test_counts_that_cannot_be_sent_to_redis_are_returned(queue: str) -> None:
    address = RedisAddress(host="127.0.0.1", port=free_port())
    places = {(queue_scope("orders"), 1): {ACCEPTED: 1}, (queue_scope("mails"), 2): {ACCEPTED: 2}}
    async with linked(Link(address, quick(command_timeout_s=0.1))) as away:
        assert await RedisPoints(away, queue).add(MINUTES, places) == places


async def test_counts_that_cannot_be_sent_to_postgresql_are_returned() -> None:
    database = QueueDatabase(f"postgresql://nobody@127.0.0.1:{free_port()}/x", lambda: None)
    places = {(queue_scope("orders"), 1): {ACCEPTED: 1}}
    assert await PostgresPoints(database).add(MINUTES, places) == places


async def test_rows_that_are_too_old_to_be_read_are_removed(postgres: PostgresProcess) -> None:
    async for database in held(opened(postgres.database())):
        store = FleetStore(PostgresPoints(database), partial(PostgresFailures, database))
        clock = FakeClock(NOW_S)
        process = Process(store, clock)
        for days in (0, 2, 40):
            clock.jump(days * 86400)
            process.add("orders", 1)
            process.failures.note("orders", "boom")
            await process.statistics.flush()
        rows = await database.fetch("SELECT resolution, count(*) FROM toril_points GROUP BY 1 ORDER BY 1")
        # One of the queue and one of its door.
        assert [tuple(row) for row in rows] == [("1h", 2), ("1m", 2), ("5m", 2)]
        assert [row[0] for row in await database.fetch("SELECT count(*) FROM toril_failures")] == [1]


async def test_an_invalid_point_in_redis_is_read_as_zero(points: RedisPoints, link: Link, queue: str) -> None:
    key = queue_scope("orders").key(queue, MINUTES, MINUTES.block(MINUTES.slot(NOW_S)))
    await link.call("HSET", key, "nonsense", "x")
    assert await accepted(points, "orders", NOW_S) == [0] * 60


async def test_reasons_of_all_processes_are_counted_together(store: FleetStore) -> None:
    clock = FakeClock(NOW_S)
    ours, theirs = Process(store, clock), Process(store, clock)
    for process, times in ((ours, 1), (theirs, 2), (ours, 4)):
        for _ in range(times):
            process.failures.note("orders", "503: \u2028 \x00")
        process.failures.note("secret", "boom")
        await process.statistics.flush()
        clock.jump(700)
    everything = await ours.fleets_failures.recent(lambda _: True)
    assert [(one.queue, one.reason, one.times, one.last_s) for one in everything] == [
        ("orders", "503: \u2028 \x00", 7, NOW_S + 1400),
        ("secret", "boom", 3, NOW_S + 1400),
    ]
    assert [one.queue for one in await ours.fleets_failures.recent(lambda name: name != "orders")] == ["secret"]
    clock.jump(3600)
    assert await ours.fleets_failures.recent(lambda _: True) == []


async def test_the_number_of_failure_reasons_is_bounded(store: FleetStore) -> None:
    failures = store.failures(FakeClock(NOW_S))
    for some in range(0, 1000, 100):
        await failures.add(Counter({("orders", f"error {number}"): 1 for number in range(some, some + 100)}))
    await failures.add(Counter({("orders", "error 1"): 1, ("orders", "error 999"): 1}))
    found = await failures.recent(lambda _: True)
    assert len(found) == 500
    assert (found[0].reason, found[0].times) == ("error 1", 2)
