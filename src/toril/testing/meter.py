"""A meter in memory."""

from __future__ import annotations

from collections.abc import Sequence

from toril.core.http.headers import Header
from toril.core.metrics import Metric


class FakeMeter:
    """`counts` are summed by metric and labels; `observed` has all observations in order, `traces` those in a trace."""

    def __init__(self) -> None:
        self.counts: dict[tuple[Metric, tuple[str, ...]], float] = {}
        self.observed: list[tuple[Metric, tuple[str, ...], float]] = []
        self.traces: list[tuple[Metric, Sequence[Header]]] = []

    def count(self, metric: Metric, labels: tuple[str, ...] = (), by: float = 1.0) -> None:
        """Add to a counter or a gauge."""
        _check(metric, labels)
        key = (metric, labels)
        self.counts[key] = self.counts.get(key, 0.0) + by

    def observe(
        self, metric: Metric, labels: tuple[str, ...], value: float, trace: Sequence[Header] | None = None
    ) -> None:
        """Put a value into a histogram."""
        _check(metric, labels)
        self.observed.append((metric, labels, value))
        if trace is not None:
            self.traces.append((metric, trace))

    def forget(self, metric: Metric, labels: tuple[str, ...]) -> None:
        """Forget what was counted."""
        self.counts.pop((metric, labels), None)

    def values(self, metric: Metric) -> list[tuple[tuple[str, ...], float]]:
        """Return what was put into one histogram."""
        return [(labels, value) for known, labels, value in self.observed if known is metric]


def _check(metric: Metric, labels: tuple[str, ...]) -> None:
    if len(labels) != len(metric.labels):
        raise ValueError(f"{metric.name} has the labels {metric.labels}, not {labels}")
