"""What every `FleetConditions` promises, in a real Valkey and a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.conformance.bullmq.links import address_of, up
from tests.conformance.holding import held
from tests.conformance.postgres_queues import opened
from toril.delivery.postgres_queue.conditions import PostgresConditions
from toril.telemetry.conditions import ROW, FleetConditions
from toril.telemetry.redis_conditions import RedisConditions


@pytest.fixture(params=["valkey", "postgres"])
async def conditions(request: pytest.FixtureRequest, queue: str) -> AsyncIterator[FleetConditions]:
    if request.param == "postgres":
        async for database in held(opened(request.getfixturevalue("postgres").database())):
            yield PostgresConditions(database)
        return
    async with up(address_of(request.getfixturevalue("valkey"))) as link:
        yield RedisConditions(link, queue)


async def test_every_instance_gets_the_same_begin_and_end_times_of_a_condition(conditions: FleetConditions) -> None:
    began = [await conditions.begin("breaker", "billing") for _ in range(3)]
    assert len({one.since_s for one in began}) == 1
    assert began[0].active
    assert not (await conditions.look("breaker", "email")).active
    ended = [await conditions.end("breaker", "billing") for _ in range(3)]
    assert len({one.ended_s for one in ended}) == 1
    assert ended[0].ended_s >= began[0].since_s
    assert not ended[0].active
    assert (await conditions.begin("breaker", "billing")).since_s > began[0].since_s


async def test_a_condition_that_was_told_stays_told_until_it_begins_again(conditions: FleetConditions) -> None:
    began = await conditions.begin("ledger", "one")
    assert began.told_s < began.since_s
    told = await conditions.told("ledger", "one")
    assert told.told_s > told.since_s
    assert (await conditions.end("ledger", "one")).told_s == told.told_s
    assert (await conditions.begin("ledger", "one")).since_s > told.told_s


async def test_a_condition_that_was_seen_before_its_end_does_not_begin_again(conditions: FleetConditions) -> None:
    began = await conditions.begin("breaker", "billing", seen_at_s=1.0)
    assert began.active
    assert await conditions.begin("breaker", "billing", seen_at_s=2.0) == began, "it goes on"
    ended = await conditions.end("breaker", "billing")
    late = await conditions.begin("breaker", "billing", seen_at_s=ended.ended_s - 0.001)
    assert (late.active, late.since_s, late.ended_s) == (False, began.since_s, ended.ended_s)
    assert (await conditions.begin("breaker", "billing", seen_at_s=ended.ended_s + 0.001)).active


async def test_ending_a_condition_that_never_began_changes_nothing(conditions: FleetConditions) -> None:
    assert (await conditions.end("breaker", "billing")).ended_s == 0


async def test_a_condition_that_has_passed_is_recorded_once(conditions: FleetConditions) -> None:
    passed = await conditions.passed("ledger", "main", 5.0)
    assert not passed.active
    assert passed.ended_s - passed.since_s == pytest.approx(5.0, abs=1e-3)
    assert await conditions.passed("ledger", "main", 4.0) == passed, "another instance saw the same"
    began = await conditions.begin("ledger", "main")
    ended = await conditions.passed("ledger", "main", 0.0)
    assert (ended.active, ended.since_s) == (False, began.since_s)
    assert ended.ended_s > passed.ended_s


async def test_a_crossed_threshold_is_reported_at_once_and_later_ones_are_pending(conditions: FleetConditions) -> None:
    first = await conditions.crossed("failing", "billing", 2, 50)
    assert (first.active, first.told_share, first.told_count, first.pending) == (True, 50, 2, 0)
    await conditions.crossed("failing", "billing", 1, 100)
    later = await conditions.crossed("failing", "billing", 3, 90)
    assert (later.told_s, later.told_share, later.told_count, later.pending) == (first.told_s, 50, 2, 4)
    ended = await conditions.end("failing", "billing")
    assert (ended.active, ended.pending) == (False, 0)


async def test_the_fifth_failure_in_a_row_begins_the_condition_and_a_success_ends_it(
    conditions: FleetConditions,
) -> None:
    assert not (await conditions.row("worker", "orders", ROW - 1, succeeded=False)).active
    assert not (await conditions.row("worker", "orders", ROW - 1, succeeded=True)).active
    failing = await conditions.row("worker", "orders", 1, succeeded=False)
    assert (failing.active, failing.row) == (True, ROW)
    assert (await conditions.row("worker", "orders", 7, succeeded=False)).since_s == failing.since_s
    well = await conditions.row("worker", "orders", 0, succeeded=True)
    assert (well.active, well.row) == (False, 0)
    assert well.ended_s > failing.since_s


async def test_one_instance_at_a_time_has_a_claim(conditions: FleetConditions) -> None:
    async with asyncio.TaskGroup() as tasks:
        claims = [tasks.create_task(conditions.claim("stuck", 30)) for _ in range(10)]
    assert sum(task.result() for task in claims) == 1


async def test_marks_are_seen_by_all_and_forgotten_unless_they_are_new(conditions: FleetConditions) -> None:
    assert await conditions.marked("worker") == set()
    await conditions.mark("worker", ["orders", "billing"])
    await conditions.unmark("worker", ["orders", "billing"], 60)
    assert await conditions.marked("worker") == {"orders", "billing"}, "they may have failed again meanwhile"
    await conditions.unmark("worker", ["orders", "unknown"], 0)
    assert await conditions.marked("worker") == {"billing"}


async def test_conditions_that_are_looked_at_while_others_are_forgotten_are_not_missed(
    conditions: FleetConditions,
) -> None:
    """A look leaves nothing that has to be kept, and each change of another condition forgets what is not kept."""

    async def changing(name: str) -> None:
        for _ in range(150):
            await conditions.begin("breaker", name)
            await conditions.end("breaker", name)

    async def looking(name: str) -> None:
        for _ in range(150):
            assert not (await conditions.look("breaker", name)).active

    async with asyncio.TaskGroup() as tasks:
        for number in range(2):
            tasks.create_task(changing(f"changes-{number}"))
            tasks.create_task(looking(f"quiet-{number}"))
            tasks.create_task(looking(f"quiet-{number}"))
