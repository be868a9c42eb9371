"""What a meter has measured since the last look, by queue, so that statistics cost nothing on the hot path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from toril.core.metrics import ATTEMPT_SECONDS, ATTEMPTS, JOB_SECONDS, JOBS_ADDED, JOBS_STALLED, WAIT_SECONDS, Metric
from toril.telemetry.rules.points import ACCEPTED, ATTEMPTS_FAILED, FAILED, FINISHED, STALLED, TOOK, WAITS, Counts, add

Labels = tuple[str, ...]
Values = Sequence[float]

COUNTED = (JOBS_ADDED, JOB_SECONDS, ATTEMPTS, JOBS_STALLED, WAIT_SECONDS, ATTEMPT_SECONDS)
"""The metrics that statistics are made of."""
_ENDS = {"complete": FINISHED, "fail": FAILED, "dead_letter": FAILED}
_FAILURES = frozenset({"retry", "fail", "dead_letter"})


class Increments:
    """Remembers the last values of each series, and computes what has been added since.

    Args:
        seen: what a meter has measured already, which is not to be told of.
    """

    def __init__(self, seen: Mapping[Metric, Mapping[Labels, Values]]) -> None:
        self._seen: dict[Metric, dict[Labels, list[float]]] = {
            metric: {labels: list(values) for labels, values in seen.get(metric, {}).items()} for metric in COUNTED
        }

    def since(self, metric: Metric, some: Iterable[tuple[Labels, Values]]) -> dict[str, Counts]:
        """Return what was added to these series of a metric, by queue, and remember their current values."""
        seen = self._seen[metric]
        place = metric.labels.index("queue")
        found: dict[str, Counts] = {}
        for labels, values in some:
            before = seen.get(labels)
            if before == values:
                continue
            now = seen[labels] = list(values)
            more = now if before is None else [a - b for a, b in zip(now, before, strict=True)]
            if counts := _counts(metric, labels, more):
                add(found.setdefault(labels[place], {}), counts)
        return found


def _counts(metric: Metric, labels: Labels, more: Sequence[float]) -> Counts:
    """Return what was added to one series as counts of a point."""
    if metric is WAIT_SECONDS:
        return _buckets(WAITS, more)
    if metric is ATTEMPT_SECONDS:
        return _buckets(TOOK, more)
    number = _counter(metric, labels)
    # The last number of a histogram is the sum of its values.
    count = round(sum(more[:-1]) if metric.buckets else more[0])
    return {number: count} if number is not None and count else {}


def _counter(metric: Metric, labels: Labels) -> int | None:
    if metric is JOBS_ADDED:
        return ACCEPTED
    if metric is JOBS_STALLED:
        return STALLED
    if metric is JOB_SECONDS:
        return _ENDS.get(labels[1])
    return ATTEMPTS_FAILED if labels[3] in _FAILURES else None


def _buckets(first: int, more: Sequence[float]) -> Counts:
    return {first + place: round(count) for place, count in enumerate(more[:-1]) if count}
