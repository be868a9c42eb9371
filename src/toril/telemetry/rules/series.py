"""Series of points: counts over time, and the percentiles of waits and attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from toril.core.metrics import PATIENT_S, QUICK_S
from toril.telemetry.rules.points import (
    ACCEPTED,
    ATTEMPTS_FAILED,
    END,
    FAILED,
    FINISHED,
    TOOK,
    WAITS,
    Counts,
    add,
)

P99 = 0.99
MEDIAN = 0.5


class Percentiles(Struct, frozen=True):
    """The median and the 99th percentile, in milliseconds."""

    p50: float
    p99: float


class Series(Struct, frozen=True):
    """Counts for each point, the oldest first, and percentiles of all points together; None if nothing was timed."""

    accepted: list[int]
    started: list[int]
    finished: list[int]
    failed: list[int]
    attempts: list[int]
    attempts_failed: list[int]
    wait_ms: Percentiles | None
    attempt_ms: Percentiles | None


def series(points: Sequence[Counts]) -> Series:
    """Return the series of these points. A job has started when its first attempt has begun."""
    total = summed(points)
    return Series(
        counted(points, ACCEPTED),
        [sum(_buckets(point, WAITS, TOOK)) for point in points],
        counted(points, FINISHED),
        counted(points, FAILED),
        [attempts(point) for point in points],
        counted(points, ATTEMPTS_FAILED),
        percentiles(_buckets(total, WAITS, TOOK), PATIENT_S),
        percentiles(_buckets(total, TOOK, END), QUICK_S),
    )


def counted(points: Sequence[Counts], number: int) -> list[int]:
    """Return one counter over time."""
    return [point.get(number, 0) for point in points]


def attempts(counts: Counts) -> int:
    """Return how many attempts have ended."""
    return sum(_buckets(counts, TOOK, END))


def summed(points: Sequence[Counts]) -> Counts:
    """Return all points as one."""
    total: Counts = {}
    for point in points:
        add(total, point)
    return total


def added(some: Sequence[Sequence[Counts]], points: int) -> list[Counts]:
    """Return the points of several scopes together."""
    together: list[Counts] = [{} for _ in range(points)]
    for one in some:
        for to, more in zip(together, one, strict=True):
            add(to, more)
    return together


def _buckets(counts: Mapping[int, int], first: int, end: int) -> list[int]:
    return [counts.get(number, 0) for number in range(first, end)]


def percentiles(buckets: Sequence[int], bounds: Sequence[float]) -> Percentiles | None:
    """Return the percentiles of a histogram with these upper bounds in seconds; its last bucket has none."""
    if not any(buckets):
        return None
    return Percentiles(*(round(quantile(buckets, bounds, part) * 1000, 3) for part in (MEDIAN, P99)))


def quantile(buckets: Sequence[int], bounds: Sequence[float], part: float) -> float:
    """Return the value below which this part of all values is.

    Values are taken to be spread evenly in their bucket. Those of the last one are at least its lower bound, which is
    all that is known of them.
    """
    rank = part * sum(buckets)
    below = 0
    for place, count in enumerate(buckets):
        if count and below + count >= rank:
            if place == len(bounds):
                return bounds[-1]
            lower = bounds[place - 1] if place else 0.0
            return lower + (bounds[place] - lower) * (rank - below) / count
        below += count
    return bounds[-1]
