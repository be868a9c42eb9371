"""Keeps the measurements of this process, and shares them with the other processes of `--processes N`.

Lists of numbers and nothing else on the hot path: prometheus-client's own values take a lock for each, and its files
for several processes are written at every change (measured side by side, a histogram observation with its labels known:
1.3 µs, with files 2.8; this 0.45, labels looked up).
Each process writes its measurements to its own file once a second; the process that is scraped adds those of the
others. A process that is started again continues the counts of its predecessor, so that no counter ever falls.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from toril.core.http.headers import Header
from toril.core.metrics import CAPPED, GROUP, METRICS, OTHER, Metric, as_other
from toril.core.ports import Now
from toril.telemetry.rules.exemplars import Exemplar, exemplar_of

log = structlog.get_logger(__name__)

SHARE_S = 1.0
MOST_FURTHER = 10_000
"""So many queues are told apart for statistics, beside those that are shown by name."""
Labels = tuple[str, ...]


class Snapshot(Struct):
    """The measurements of one process at `at_s` (wall clock), and the queues that it works on.

    A counter or a gauge has one number by its labels, a histogram one for each bucket and, at the end, its sum.
    `exemplars` are of the buckets of histograms, by their place.
    """

    at_s: float
    queues: list[str]
    metrics: dict[str, list[tuple[Labels, list[float]]]]
    exemplars: dict[str, list[tuple[Labels, dict[int, Exemplar]]]] = {}


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Snapshot)


class PrometheusMeter:
    """The metrics of one process.

    Args:
        most_queues: how many values the label `queue` may have here; further ones are `other`.
        now: the wall clock.
        folder: where the processes of an instance write their measurements; None if there is only one process.
        number: which process this is.
    """

    def __init__(self, most_queues: int, now: Now, folder: str | None = None, number: int = 0) -> None:
        self._most_queues = most_queues
        self._now = now
        self._values: dict[Metric, dict[Labels, list[float]]] = {metric: {} for metric in METRICS}
        self._capped = {metric: metric.labels.index(CAPPED) for metric in METRICS if CAPPED in metric.labels}
        self._queues: set[str] = set()
        # Beyond those that are shown: told apart for statistics alone.
        self._further: set[str] = set()
        self._unshown: dict[Metric, dict[Labels, list[float]]] = {metric: {} for metric in self._capped}
        # The latest one of each bucket that is shown, so there are no more of them than numbers above.
        self._exemplars: dict[Metric, dict[Labels, dict[int, Exemplar]]] = {}
        self._folder = None if folder is None else Path(folder)
        self._file = f"{number}.metrics"
        if self._folder is not None:
            self._resume(self._folder / self._file)

    def count(self, metric: Metric, labels: Labels = (), by: float = 1.0) -> None:
        """Add to a counter, or to a gauge (which may fall)."""
        found = self._values[metric].get(labels)
        if found is not None:
            found[0] += by
            return
        for numbers in self._series(metric, labels):
            numbers[0] += by

    def observe(self, metric: Metric, labels: Labels, value: float, trace: Sequence[Header] | None = None) -> None:
        """Put a value into a histogram. Where its trace is kept, it is the exemplar of its bucket."""
        place = bisect_left(metric.buckets, value)
        found = self._values[metric].get(labels)
        if found is not None:
            found[place] += 1.0
            found[-1] += value
        else:
            for numbers in self._series(metric, labels):
                numbers[place] += 1.0
                numbers[-1] += value
        if trace is not None:
            self._exemplify(metric, labels, value, trace)

    def _exemplify(self, metric: Metric, labels: Labels, value: float, trace: Sequence[Header]) -> None:
        found = exemplar_of(trace, value, self._now())
        if found is not None:
            place = self._capped.get(metric)
            if place is not None and labels[place] not in self._queues:
                labels = as_other(metric, labels)
            series = self._exemplars.setdefault(metric, {})
            series.setdefault(labels, {})[bisect_left(metric.buckets, value)] = found

    def forget(self, metric: Metric, labels: Labels) -> None:
        """Show a series no longer; it begins at 0 if it is counted again."""
        self._values[metric].pop(labels, None)

    def _series(self, metric: Metric, labels: Labels) -> tuple[list[float], ...]:
        """Return the numbers of these labels, made if missing. Of a queue over the limit these are those of `other`,
        and its own, for statistics: it costs more.
        """
        place = self._capped.get(metric)
        if place is None or labels[place] in self._queues:
            return (_numbers(metric, self._values[metric], labels),)
        queue = labels[place]
        if len(self._queues) < self._most_queues:
            self._queues.add(queue)
            return (_numbers(metric, self._values[metric], labels),)
        other = _numbers(metric, self._values[metric], as_other(metric, labels))
        if GROUP in metric.labels:  # there are no statistics of groups
            return (other,)
        if len(self._further) < MOST_FURTHER:
            self._further.add(queue)
        if queue not in self._further:
            return (other,)
        return (other, _numbers(metric, self._unshown[metric], labels))

    def series(self, metric: Metric) -> list[tuple[Labels, list[float]]]:
        """Return the series of a metric that has a queue, for each queue, shown by name or not, in their order.

        The numbers of each go on changing here, and must not be changed elsewhere.
        """
        place, shown = self._capped[metric], [*self._values[metric].items()]
        if OTHER not in self._queues:
            shown = [one for one in shown if one[0][place] != OTHER]
        return [*shown, *self._unshown[metric].items()]

    def snapshot(self, queues: Iterable[str] = ()) -> Snapshot:
        """Return all values as they are now. `queues` are worked on here, whether or not they were measured."""
        values = {
            metric.name: [(labels, numbers.copy()) for labels, numbers in series.items()]
            for metric, series in self._values.items()
        }
        exemplars = {
            metric.name: [(labels, found.copy()) for labels, found in series.items()]
            for metric, series in self._exemplars.items()
        }
        return Snapshot(self._now(), sorted({*self._queues, *queues}), values, exemplars)

    @property
    def has_company(self) -> bool:
        """True if there may be other processes beside this one."""
        return self._folder is not None

    async def share(self, queues: Iterable[str] = ()) -> None:
        """Write a snapshot for the other processes. Does nothing if there are none."""
        if self._folder is not None:
            await asyncio.to_thread(_write, self._folder / self._file, _encode(self.snapshot(queues)))

    def others(self) -> list[Snapshot]:
        """Return the snapshots of the other processes. Reads files: call it in a thread."""
        if self._folder is None:
            return []
        paths = sorted(path for path in self._folder.glob("*.metrics") if path.name != self._file)
        return [found for path in paths if (found := _read(path)) is not None]

    def _resume(self, path: Path) -> None:
        """Continue the counts of the previous process with this number. Its sockets are closed, so gauges begin at
        0.
        """
        before = _read(path)
        if before is None:
            return
        for metric in self._values:
            if metric.kind != "gauge":
                place = self._capped.get(metric)
                for labels, numbers in before.metrics.get(metric.name, []):
                    if place is not None and labels[place] != OTHER:
                        self._queues.add(labels[place])
                    _numbers(metric, self._values[metric], labels)[:] = numbers


def _numbers(metric: Metric, series: dict[Labels, list[float]], labels: Labels) -> list[float]:
    size = len(metric.buckets) + 2 if metric.buckets else 1
    return series.setdefault(labels, [0.0] * size)


def _write(path: Path, data: bytes) -> None:
    """Replace a file at once, so that no half of it can be read."""
    new = path.with_suffix(".new")
    try:
        new.write_bytes(data)
        os.replace(new, path)
    except OSError as exc:
        log.warning("metrics.not_shared", error=str(exc))


def _read(path: Path) -> Snapshot | None:
    try:
        return _decoder.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
