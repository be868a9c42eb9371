"""When statistics are written, over a writer that remembers; what Redis makes of it is in tests/conformance."""

import asyncio
from collections.abc import Mapping

import pytest

import toril.telemetry.statistics as statistics_module
from toril.core.metrics import JOBS_ADDED
from toril.telemetry.failures import Failures
from toril.telemetry.prometheus_meter import PrometheusMeter
from toril.telemetry.redis_failures import RedisFailures
from toril.telemetry.rules.points import ACCEPTED, FIVE_MINUTES, HOURS, MINUTES, Counts, Resolution, Scope, queue_scope
from toril.telemetry.statistics import Statistics
from toril.testing import FakeClock

Points = Mapping[tuple[Scope, int], Counts]


class NoFailures(RedisFailures):
    """Nothing is noted here, so nothing is written."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(None, "bull", clock)  # type: ignore[arg-type]


class Writer:
    """Remembers what it was given; while it is away, it gives it back."""

    def __init__(self) -> None:
        self.away = False
        self.written: list[tuple[Resolution, Points]] = []

    async def add(self, resolution: Resolution, points: Points) -> Points:
        if self.away:
            return points
        self.written.append((resolution, points))
        return {}

    def jobs(self, resolution: Resolution, queue: str) -> list[int]:
        scope = queue_scope(queue)
        return [
            counts[ACCEPTED]
            for written, points in self.written
            if written is resolution
            for (of, _), counts in points.items()
            if of == scope
        ]


def made() -> tuple[PrometheusMeter, Writer, Statistics, FakeClock]:
    clock, writer = FakeClock(), Writer()
    meter = PrometheusMeter(1, clock)
    return meter, writer, Statistics(meter, writer, Failures(), NoFailures(clock), lambda _: "queues", clock), clock


async def test_coarser_points_are_written_less_often() -> None:
    meter, writer, statistics, clock = made()

    async def busy() -> None:
        while True:
            meter.count(JOBS_ADDED, ("orders",))
            await asyncio.sleep(1)

    with clock.driving():
        running = [asyncio.ensure_future(statistics.run()), asyncio.ensure_future(busy())]
        await asyncio.sleep(600.5)
        for task in running:
            task.cancel()
    rounds = [sum(resolution is one for resolution, _ in writer.written) for one in (MINUTES, FIVE_MINUTES, HOURS)]
    assert rounds == [60, 10, 2]
    assert {sum(writer.jobs(one, "orders")) for one in (MINUTES, FIVE_MINUTES, HOURS)} == {600}


async def test_a_flush_writes_everything_at_all_resolutions() -> None:
    meter, writer, statistics, _ = made()
    meter.count(JOBS_ADDED, ("orders",), 3)
    await statistics.flush()
    assert [writer.jobs(one, "orders") for one in (MINUTES, FIVE_MINUTES, HOURS)] == [[3], [3], [3]]
    writer.written.clear()
    await statistics.flush()
    assert writer.written == []


async def test_points_that_could_not_be_sent_are_written_later_at_their_time() -> None:
    meter, writer, statistics, clock = made()
    writer.away = True
    for _ in range(3):
        meter.count(JOBS_ADDED, ("orders",))
        await statistics.flush()
    clock.jump(120)
    writer.away = False
    meter.count(JOBS_ADDED, ("orders",), 5)
    await statistics.flush()
    assert writer.jobs(MINUTES, "orders") == [3, 5]


async def test_of_many_queues_each_is_written_once_a_minute_and_nothing_is_lost() -> None:
    meter, writer, statistics, clock = made()
    queues = [f"q-{number}" for number in range(2500)]
    for _ in range(18):
        for queue in queues:
            meter.count(JOBS_ADDED, (queue,))
        await statistics.write()
        clock.jump(10)
    calls = [len(points) for resolution, points in writer.written if resolution is MINUTES]
    assert max(calls) < len(queues) / 2
    await statistics.flush()
    for resolution in (MINUTES, FIVE_MINUTES, HOURS):
        assert {sum(writer.jobs(resolution, queue)) for queue in queues[::500]} == {18}


async def test_the_points_kept_while_redis_is_away_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics_module, "_MOST_UNSENT", 10)
    meter, writer, statistics, clock = made()
    writer.away = True
    for _ in range(50):
        meter.count(JOBS_ADDED, ("orders",))
        await statistics.write()
        clock.jump(60)
    writer.away = False
    await statistics.flush()
    # The last ones: a point of the queue, and one of its door, for each minute.
    assert writer.jobs(MINUTES, "orders") == [1] * 5
