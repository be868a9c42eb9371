"""Failures of registered workers: none is lost between two reports."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from toril.core.errors import StoreUnavailable
from toril.core.operator_event import OperatorEvent
from toril.telemetry.conditions import ROW, FleetCondition
from toril.telemetry.worker_health import WorkerHealth

WORKERS = ("orders", *(f"quiet-{number}" for number in range(10_000)))


class Conditions:
    """Counts failures in a row as Redis does. `meanwhile` happens during a report; `away` fails the next one."""

    def __init__(self) -> None:
        self.failures = 0
        self.meanwhile: Callable[[], None] = lambda: None
        self.away = False
        self.asked: list[str] = []
        self.names: set[str] = set()

    async def mark(self, kind: str, names: Sequence[str]) -> None:
        self.names |= set(names)

    async def marked(self, kind: str) -> set[str]:
        return self.names

    async def unmark(self, kind: str, names: Sequence[str], for_s: float) -> None:
        self.names -= set(names)

    async def row(self, kind: str, name: str, failures: int, *, succeeded: bool) -> FleetCondition:
        self.asked.append(name)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        if self.away:
            self.away = False
            raise StoreUnavailable
        self.failures = failures if succeeded else self.failures + failures
        return FleetCondition(1.0, 0.0, self.failures >= ROW, self.failures, 0, 0.0, 0, 0)


@pytest.fixture
def conditions() -> Conditions:
    return Conditions()


@pytest.fixture
def told() -> list[OperatorEvent]:
    return []


@pytest.fixture
def health(conditions: Conditions, told: list[OperatorEvent]) -> WorkerHealth:
    fake: Any = conditions
    return WorkerHealth(fake, told.append, lambda: set(WORKERS), lambda: 10_000.0)


def fail(health: WorkerHealth, times: int) -> None:
    for _ in range(times):
        health.attempted("orders", succeeded=False)


async def test_failures_during_a_report_are_in_the_next_one(
    health: WorkerHealth, conditions: Conditions, told: list[OperatorEvent]
) -> None:
    fail(health, 1)
    conditions.meanwhile = lambda: fail(health, ROW - 1)
    await health.report()
    assert (conditions.failures, told) == (1, [])
    await health.report()
    assert [one.type for one in told] == ["worker.failing"]


async def test_failures_that_could_not_be_reported_are_reported_later(
    health: WorkerHealth, conditions: Conditions, told: list[OperatorEvent]
) -> None:
    fail(health, 2)
    conditions.away, conditions.meanwhile = True, lambda: fail(health, ROW - 2)
    with pytest.raises(StoreUnavailable):
        await health.report()
    await health.report()
    assert [one.data["failures"] for one in told] == [ROW]


async def test_a_success_during_a_failed_report_ends_the_row(health: WorkerHealth, conditions: Conditions) -> None:
    fail(health, 2)
    conditions.away, conditions.meanwhile = True, lambda: health.attempted("orders", succeeded=True)
    with pytest.raises(StoreUnavailable):
        await health.report()
    fail(health, 1)
    await health.report()
    assert conditions.failures == 1


async def test_healthy_workers_are_never_asked_for(health: WorkerHealth, conditions: Conditions) -> None:
    for queue in WORKERS:
        health.attempted(queue, succeeded=True)
    await health.look()
    await health.report()
    assert conditions.asked == []


async def test_a_worker_that_failed_elsewhere_is_watched_and_its_success_reported(
    health: WorkerHealth, conditions: Conditions, told: list[OperatorEvent]
) -> None:
    await conditions.mark("worker", ["orders", "worked-on-elsewhere"])
    conditions.failures = ROW
    await health.look()
    await health.report()
    assert conditions.asked == ["orders"]
    assert [one.type for one in told] == ["worker.failing"], "also where the instance that counted them is gone"
    health.attempted("orders", succeeded=True)
    await health.report()
    assert conditions.failures == 0


async def test_a_worker_that_is_well_again_is_not_looked_at(health: WorkerHealth, conditions: Conditions) -> None:
    fail(health, 1)
    await health.report()
    assert await conditions.marked("worker") == {"orders"}
    health.attempted("orders", succeeded=True)
    await health.report()
    assert await conditions.marked("worker") == set()
    conditions.asked.clear()
    await health.look()
    await health.report()
    assert conditions.asked == []


async def test_a_worker_is_marked_before_its_failures_are_counted(health: WorkerHealth, conditions: Conditions) -> None:
    fail(health, 1)
    conditions.away = True
    with pytest.raises(StoreUnavailable):
        await health.report()
    assert await conditions.marked("worker") == {"orders"}
