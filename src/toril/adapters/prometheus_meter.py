"""Keeps what is measured in this process, and shares it with the other processes of `--processes N`.

Lists of numbers and nothing else on the hot path: prometheus-client's own values take a lock for each, and its files
for several processes are written at every change (measured side by side, a histogram observation with its labels known:
1.3 µs, with files 2.8; this 0.45, labels looked up).
Each process writes what it has to a file of its own once a second; whoever is scraped adds the files of the others.
One that is started again goes on from where its predecessor was, so that no counter ever falls.

Called by all rooms through `toril.core.ports.shared.Meter`; read by `toril.adapters.prometheus_exposition`.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from toril.core.metrics import CAPPED, METRICS, OTHER, Metric
from toril.core.ports.shared import Now

log = structlog.get_logger(__name__)

SHARE_S = 1.0
Labels = tuple[str, ...]


class Snapshot(Struct):
    """What one process has measured until `at_s` (wall clock), and the queues that it works on.

    A counter or a gauge has one number by its labels, a histogram one for each bucket and, at the end, its sum.
    """

    at_s: float
    queues: list[str]
    metrics: dict[str, list[tuple[Labels, list[float]]]]


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Snapshot)


class PrometheusMeter:
    """The metrics of one process.

    Args:
        most_queues: how many values the label `queue` may have here; all further ones are `other`.
        now: the wall clock.
        folder: where the processes of an instance leave what they have measured; None when there is one alone.
        number: which process this is.
    """

    def __init__(self, most_queues: int, now: Now, folder: str | None = None, number: int = 0) -> None:
        self._most_queues = most_queues
        self._now = now
        self._values: dict[Metric, dict[Labels, list[float]]] = {metric: {} for metric in METRICS}
        self._capped = {metric: metric.labels.index(CAPPED) for metric in METRICS if CAPPED in metric.labels}
        self._queues: set[str] = set()
        self._folder = None if folder is None else Path(folder)
        self._file = f"{number}.metrics"
        if self._folder is not None:
            self._resume(self._folder / self._file)

    def count(self, metric: Metric, labels: Labels = (), by: float = 1.0) -> None:
        """Add to a counter, or to a gauge (which may fall)."""
        found = self._values[metric].get(labels)
        if found is None:
            found = self._series(metric, labels)
        found[0] += by

    def observe(self, metric: Metric, labels: Labels, value: float) -> None:
        """Put a value into a histogram."""
        found = self._values[metric].get(labels)
        if found is None:
            found = self._series(metric, labels)
        found[bisect_left(metric.buckets, value)] += 1.0
        found[-1] += value

    def _series(self, metric: Metric, labels: Labels) -> list[float]:
        """The numbers of these labels, made if need be. What is over the limit is not remembered, so it costs more."""
        place = self._capped.get(metric)
        if place is not None and labels[place] not in self._queues:
            if len(self._queues) < self._most_queues:
                self._queues.add(labels[place])
            else:
                labels = (*labels[:place], OTHER, *labels[place + 1 :])
        size = len(metric.buckets) + 2 if metric.buckets else 1
        return self._values[metric].setdefault(labels, [0.0] * size)

    def snapshot(self, queues: Iterable[str] = ()) -> Snapshot:
        """All values as they are now. `queues` are those that this process works on beside those it has measured."""
        values = {
            metric.name: [(labels, numbers.copy()) for labels, numbers in series.items()]
            for metric, series in self._values.items()
        }
        return Snapshot(self._now(), sorted({*self._queues, *queues}), values)

    async def share(self, queues: Iterable[str] = ()) -> None:
        """Leave a snapshot where the other processes find it. Does nothing where there are none."""
        if self._folder is not None:
            await asyncio.to_thread(_write, self._folder / self._file, _encode(self.snapshot(queues)))

    def others(self) -> list[Snapshot]:
        """What the other processes have measured. Reads files: to be called in a thread."""
        if self._folder is None:
            return []
        paths = sorted(path for path in self._folder.glob("*.metrics") if path.name != self._file)
        return [found for path in paths if (found := _read(path)) is not None]

    def _resume(self, path: Path) -> None:
        """Go on from where the process was that had this number before. Its sockets are closed: gauges begin anew."""
        before = _read(path)
        if before is None:
            return
        for metric in self._values:
            if metric.kind != "gauge":
                for labels, numbers in before.metrics.get(metric.name, []):
                    self._series(metric, labels)[:] = numbers


def _write(path: Path, data: bytes) -> None:
    """Put a file in the place of another at once: nobody ever reads half of it."""
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
