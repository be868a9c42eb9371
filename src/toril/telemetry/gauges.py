"""Gauges that are set, on a meter that adds."""

from __future__ import annotations

from toril.core.metrics import Metric
from toril.core.ports import Meter


class Gauges:
    """Sets gauges of a meter, whose processes are added up: only one of them may set a gauge of the whole fleet."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._values: dict[tuple[Metric, tuple[str, ...]], float] = {}

    def set(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge."""
        before = self._values.get((metric, labels), 0.0)
        self._values[metric, labels] = value
        self._meter.count(metric, labels, value - before)
