"""The charts of a day and of a week, over a past that toril's own code has written with clocks of that time."""

import asyncio
import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.bullmq.links import PATIENT, address_of, up
from tests.support.browser import Tab, open_page
from tests.support.deliveries import configuration
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from toril.core.metrics import ATTEMPT_SECONDS, ATTEMPTS, JOB_SECONDS, JOBS_ADDED, WAIT_SECONDS
from toril.telemetry.failures import Failures
from toril.telemetry.prometheus_meter import PrometheusMeter
from toril.telemetry.redis_failures import RedisFailures
from toril.telemetry.redis_points import RedisPoints
from toril.telemetry.statistics import Statistics
from toril.testing import FakeClock

HOUR_S, DAY_S = 3600.0, 86_400.0
QUEUES = {"orders": 0.3, "mails": 0.12, "deliver-crm": 0.05}
"""Jobs a second of each queue, when most is done."""
DOORS = {"Queues": "queues", "Deliveries": "delivery"}
PLOT_HEIGHT = 72


def moments(now_s: float) -> Iterator[tuple[float, float]]:
    """When a process writes what it did in a period, in the middle of it, and how long that is, the oldest first: each
    hour a week ago, each five minutes yesterday, each minute in the last hour."""
    begin_s = (now_s - 8 * DAY_S) // HOUR_S * HOUR_S
    while begin_s < now_s:
        step_s = HOUR_S if begin_s < now_s - DAY_S - HOUR_S else 300.0 if begin_s < now_s - HOUR_S - 300.0 else 60.0
        yield begin_s + step_s / 2, step_s
        begin_s += step_s


def jobs_a_second(ago_s: float, most: float) -> float:
    """Most is done at this time of the day, least twelve hours before."""
    return most * (0.55 + 0.45 * math.cos(ago_s / DAY_S * 2 * math.pi))


def work(meter: PrometheusMeter, queue: str, numbers: Iterable[int]) -> None:
    """Measure jobs that were added, worked on and ended. One in twenty fails."""
    for number in numbers:
        is_bad = number % 20 == 7
        meter.count(JOBS_ADDED, (queue,))
        meter.observe(WAIT_SECONDS, ("push", queue), 0.002 * (number % 50))
        meter.observe(ATTEMPT_SECONDS, ("push", queue), 0.01 * (number % 30))
        meter.observe(JOB_SECONDS, (queue, "fail" if is_bad else "complete"), 0.5)
        if is_bad:
            meter.count(ATTEMPTS, ("push", queue, "5xx", "fail"))


async def write_week(valkey: ValkeyProcess, now_s: float) -> None:
    """Write what a process did in the week before."""
    clock = FakeClock(now_s)
    async with up(address_of(valkey), PATIENT) as link:
        meter = PrometheusMeter(len(QUEUES), clock)
        statistics = Statistics(
            meter,
            RedisPoints(link, "bull"),
            Failures(),
            RedisFailures(link, "bull", clock),
            lambda queue: "delivery" if queue.startswith("deliver-") else "queues",
            clock,
        )
        numbers = {queue: count() for queue in QUEUES}
        for at_s, step_s in moments(now_s):
            clock.jump(at_s - clock())
            for queue, most in QUEUES.items():
                work(meter, queue, islice(numbers[queue], round(jobs_a_second(now_s - at_s, most) * step_s)))
            await statistics.flush()


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorilProcess]:
    """A toril whose fleet has a past."""
    folder: Path = tmp_path_factory.mktemp("past")
    with ValkeyProcess(folder / "valkey") as valkey:
        asyncio.run(write_week(valkey, time.time()))
        ledger = {"url": f"sqlite:///{folder}/ledger.sqlite3"}
        file = configuration(folder / "toril.yaml", {"crm": "http://127.0.0.1:1"}, ledger=ledger)
        with TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(file)]) as toril:
            yield toril


ROWS = """Object.fromEntries(Array.from(document.querySelectorAll('table.doors tbody tr'), row => [
    row.querySelector('a.thing').textContent, {
        paths: Object.fromEntries(['acc', 'fin', 'bad'].map(kind => [kind, row.querySelector(`.chart path.${kind}`)?.getAttribute('d') || ''])),
        top: row.querySelector('.chart span').textContent,
        axis: Array.from(row.querySelectorAll('.axis span'), one => one.textContent),
        figures: Object.fromEntries(Array.from(row.querySelectorAll('td[data-l]'), cell => [cell.dataset.l, cell.innerText.replaceAll('\\u00a0', ' ').split('\\n')])),
    }]))"""  # noqa: E501 - JavaScript


def rate(value: float) -> str:
    """A rate as the page writes it."""
    if not value:
        return "0"
    if value < 0.01:
        return f"{value:.1g}"
    return f"{value:.2f}" if value < 0.1 else f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def drawn(path: str, top: float) -> list[float]:
    """The values of a line."""
    return [(PLOT_HEIGHT - float(y)) / PLOT_HEIGHT * top for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path)]


def in_ms(text: str) -> float:
    """A duration as the page writes it."""
    number, unit = text.split(" ")
    return float(number) * {"ms": 1, "s": 1000}[unit]


def stats(toril: TorilProcess, **query: str) -> dict[str, Any]:
    """What the API says."""
    found: dict[str, Any] = toril.client.get("/stats", params=query).json()
    return found


def check_line(path: str, top: float, counts: Sequence[int], step_s: float) -> None:
    """The line has each whole point of a series; the newest one is still growing."""
    found = drawn(path, top)
    assert len(found) == len(counts) - 1
    assert found == pytest.approx([number / step_s for number in counts[:-1]], abs=top * 0.1 / PLOT_HEIGHT)


@pytest.mark.parametrize(
    ("window", "name", "step_s", "points"),
    [("1h", "1 hour", 60, 60), ("24h", "1 day", 300, 288), ("7d", "1 week", 3600, 168)],
)
def test_the_charts_show_what_the_statistics_say(
    tab: Tab, past: TorilProcess, window: str, name: str, step_s: int, points: int
) -> None:
    open_page(tab, past, "?window=7d" if window == "1h" else "")
    tab.click("link", name)
    tab.shows(f"{name}, jobs a second")
    tab.until(f"document.querySelector('.chart path.fin')?.getAttribute('d').split('L').length === {points - 1}")
    tab.click("button", "Pause live updates")
    shown, said = tab.run(ROWS), stats(past, window=window)
    assert tab.address == ("/dashboard/" if window == "1h" else f"/dashboard/?window={window}")
    assert set(shown) == set(DOORS)
    assert (said["step_s"], len(said["doors"]["queues"]["finished"])) == (step_s, points)
    for title, row in shown.items():
        door = said["doors"][DOORS[title]]
        assert sum(door["failed"]) > 0
        top = float(row["top"].removesuffix("/s").replace(",", ""))
        most = max(max(door[series][:-1]) for series in ("accepted", "finished", "failed")) / step_s
        assert 0 < 1.1 * most <= top <= 2.5 * most, "the line takes the height that there is, below the top's label"
        check_line(row["paths"]["acc"], top, door["accepted"], step_s)
        check_line(row["paths"]["fin"], top, door["finished"], step_s)
        assert row["paths"]["bad"].count("M") == sum(1 for number in door["failed"][:-1] if number)
        for label, series in (
            ("Accepted/s", "accepted"), ("Started/s", "started"), ("Finished/s", "finished"), ("Failed/s", "failed"),
        ):  # fmt: skip
            assert row["figures"][label] == [rate(door[series][-2] / step_s)], (title, label)
        for label, timed in (("Wait", "wait_ms"), ("Attempt", "attempt_ms")):
            p50, p99 = map(in_ms, row["figures"][label])
            assert p50 == pytest.approx(door[timed]["p50"], abs=0.6), (title, label)
            assert p99 == pytest.approx(door[timed]["p99"], abs=0.6), (title, label)
    axis = shown["Deliveries"]["axis"]
    since = said["from"]
    assert axis[0] == (since[5:10] if window == "7d" else since[11:16])
    assert len(axis) == 4


def test_a_week_has_no_gap_and_repeats_its_days(past: TorilProcess) -> None:
    """Guards the test above against a past without numbers."""
    counts = stats(past, queue="orders", window="7d")["finished"][:-1]
    assert min(counts) > 0
    assert max(counts) > 5 * min(counts)
    assert counts[24:48] == pytest.approx(counts[48:72], rel=0.2, abs=20)
    day = stats(past, queue="orders", window="24h")["finished"][:-1]
    assert min(day) > 0
