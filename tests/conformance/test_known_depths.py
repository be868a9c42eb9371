"""How full queues are, read a share at a time: whatever that takes, a scrape is answered and tells of Redis truly."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.conformance.test_meter import of, scraped
from toril.core.errors import StoreUnavailable
from toril.core.metrics import QueueDepth
from toril.telemetry import known_depths
from toril.telemetry.known_depths import KnownDepths
from toril.telemetry.prometheus_exposition import PrometheusExposition
from toril.telemetry.prometheus_meter import PrometheusMeter

QUEUES = [f"q-{number:02}" for number in range(12)]


class Reading:
    """Reads queues that have a job each, and does what it is told to when it gets to one of them."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.hangs_at: str | None = None
        self.fails_at: str | None = None
        self.unreadable: set[str] = set()

    async def read(self, queues: Sequence[str]) -> list[QueueDepth]:
        self.batches.append(list(queues))
        if self.hangs_at in queues:
            await asyncio.Event().wait()
        if self.fails_at in queues:
            raise StoreUnavailable
        return [QueueDepth(queue, {"waiting": 1}) for queue in queues if queue not in self.unreadable]

    def turn(self) -> list[str]:
        """The queues that were asked for since the last turn."""
        asked = [queue for batch in self.batches for queue in batch]
        self.batches.clear()
        return asked


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every refresh reads: four queues of each sort, in threes, for as long as a test can wait."""
    for name, value in (("FRESH_S", -1.0), ("BUDGET_S", 0.05), ("SHARE", 4), ("BATCH", 3)):
        monkeypatch.setattr(known_depths, name, value)


def names(known: KnownDepths) -> list[str]:
    return sorted(depth.queue for depth in known.shown())


@pytest.mark.usefixtures("hasty")
async def test_each_refresh_reads_some_queues_and_every_queue_gets_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_depths, "BUDGET_S", 60.0)
    reading = Reading()
    known = KnownDepths(reading, most_named=2)
    named, others = QUEUES[:2], QUEUES[2:]
    turns = []
    for _ in range(3):
        await known.refresh(set(QUEUES))
        assert {len(batch) for batch in reading.batches} <= {1, 2, 3}
        turns.append(reading.turn())
    assert [sorted(set(turn) & set(named)) for turn in turns] == [named] * 3
    assert [sorted(set(turn) & set(others)) for turn in turns[:2]] == [others[:4], others[4:8]]
    assert set(turns[2]) > set(others[8:])
    assert names(known) == QUEUES


@pytest.mark.usefixtures("hasty")
async def test_where_time_is_short_the_next_refresh_goes_on_with_the_others() -> None:
    reading = Reading()
    known = KnownDepths(reading, most_named=100)
    reading.hangs_at = QUEUES[3]
    await known.refresh(QUEUES)
    assert names(known) == QUEUES[:3]
    reading.hangs_at = None
    reading.turn()
    for _ in range(3):
        await known.refresh(QUEUES)
    assert reading.turn()[:4] == QUEUES[4:8], "neither those that were read nor the one that was in vain"
    assert set(names(known)) >= set(QUEUES[4:])


@pytest.mark.usefixtures("hasty")
async def test_the_age_is_that_of_the_queue_that_was_not_read_for_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    ahead_s, clock = 0.0, loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + ahead_s)
    monkeypatch.setattr(known_depths, "BUDGET_S", 60.0)
    reading = Reading()
    known = KnownDepths(reading, most_named=100)
    assert known.age_s() == 0.0
    await known.refresh(QUEUES[:2])
    reading.unreadable = {QUEUES[1]}
    ahead_s = 100.0
    await known.refresh(QUEUES[:2])
    assert 100.0 <= known.age_s() < 150.0
    assert names(known) == QUEUES[:2], "the last that is known is shown"
    await known.refresh(QUEUES[:1])
    assert known.age_s() < 50.0
    assert names(known) == QUEUES[:1]


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("how", ["hangs_at", "fails_at"])
async def test_queues_that_cannot_be_read_do_not_take_redis_down(how: str) -> None:
    reading = Reading()
    setattr(reading, how, QUEUES[0])

    async def ping() -> bool:
        return True

    shown = PrometheusExposition(
        PrometheusMeter(100, lambda: 0.0), reading, ping, lambda: QUEUES, version="1", most_queues=100
    )
    together = await asyncio.gather(*(scraped(shown) for _ in range(3)))
    assert [of(samples, "toril_redis_up") for samples in together] == [1, 1, 1]
    await scraped(shown)
    samples = await scraped(shown)
    assert of(samples, "toril_redis_up") == 1
    assert of(samples, "toril_queue_jobs", queue=QUEUES[8], state="waiting") == 1
    assert of(samples, "toril_queue_depths_age_seconds") is not None
