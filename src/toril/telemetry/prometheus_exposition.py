"""The measurements of all processes and the depths of the queues, in Prometheus' text format or in OpenMetrics.

Adding up and rendering run in a thread, because thousands of lines would block the event loop. Redis is pinged on its
own: depths that are not read in time do not mean that it is down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import accumulate

import structlog
from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPEN_METRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_open_metrics
from prometheus_client.samples import Exemplar as FamilyExemplar
from prometheus_client.utils import floatToGoString

from toril.core.errors import StoreError
from toril.core.metrics import (
    BUILD_INFO,
    CAPPED,
    GROUP_JOBS,
    GROUP_OLDEST_SECONDS,
    METRICS,
    OTHER,
    PROCESSES,
    QUEUE_DEPTHS_AGE,
    QUEUE_JOBS,
    QUEUE_OLDEST_SECONDS,
    REDIS_UP,
    Metric,
    QueueDepth,
    as_other,
    bounded,
)
from toril.core.ports import QueueDepths
from toril.telemetry.known_depths import KnownDepths
from toril.telemetry.prometheus_meter import SHARE_S, Labels, PrometheusMeter, Snapshot
from toril.telemetry.rules.exemplars import Exemplar, asks_for_open_metrics, latest

log = structlog.get_logger(__name__)

_ALIVE_S = 10.0
_PATIENCE_S = 5.0
_NOT_METERED = {
    QUEUE_JOBS, QUEUE_OLDEST_SECONDS, QUEUE_DEPTHS_AGE, GROUP_JOBS, GROUP_OLDEST_SECONDS, REDIS_UP, PROCESSES,
    BUILD_INFO,
}  # fmt: skip
_NO_DEPTHS: tuple[QueueDepth, ...] = ()
Values = dict[Labels, list[float]]
Exemplars = dict[Labels, dict[int, Exemplar]]
Sees = Callable[[str], bool]


class PrometheusExposition:
    """The text of all measurements.

    Args:
        meter: the measurements of this process, and those that the others share.
        depths: reads queues.
        ping: raises a `StoreError` if Redis does not answer; returns False where there is no Redis.
        queues: returns those that are worked on here.
        version: toril's own.
        most_queues: how many queues are shown by name.
        traced: there are traces, so that OpenMetrics, which has exemplars, is given to those who read it.
    """

    def __init__(  # noqa: PLR0913 - three are values by name
        self,
        meter: PrometheusMeter,
        depths: QueueDepths,
        ping: Callable[[], Awaitable[bool]],
        queues: Callable[[], Iterable[str]],
        *,
        version: str,
        most_queues: int,
        traced: bool = False,
    ) -> None:
        self._meter = meter
        self._depths = KnownDepths(depths, most_queues)
        self._ping = ping
        self._queues = queues
        self._version = version
        self._most_queues = most_queues
        self._traced = traced

    async def run(self) -> None:
        """Share the measurements of this process with the others, until cancelled; end at once if it is alone."""
        while self._meter.has_company:
            await self._meter.share(self._queues())
            await asyncio.sleep(SHARE_S)

    async def text(self, sees: Sees, accept: str = "") -> tuple[bytes, bytes]:
        """Return the content type and the text; queues that the caller may not see are part of `other`.

        In OpenMetrics the bounds of buckets are written as `1.0`, in the other format as `1`: who has no traces does
        not get it, so that series keep their names.
        """
        own = self._meter.snapshot(self._queues())
        others = await asyncio.to_thread(self._meter.others)
        up = await self._answers()
        if up is not False:
            await self._depths.refresh({queue for one in [own, *others] for queue in one.queues})
        depths = self._depths.shown() if up is not False else _NO_DEPTHS
        found = _StoreReading(up, depths, self._depths.age_s(), sees)
        openly = self._traced and asks_for_open_metrics(accept)
        text = await asyncio.to_thread(self._rendered, own, others, found, openly)
        return (OPEN_METRICS if openly else CONTENT_TYPE_PLAIN_0_0_4).encode(), text

    async def _answers(self) -> bool | None:
        """Return whether Redis answers; None where there is none."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return None if await self._ping() is False else True
        except (StoreError, TimeoutError) as exc:
            log.debug("metrics.redis_unread", error=str(exc))
            return False

    def _rendered(self, own: Snapshot, others: list[Snapshot], found: _StoreReading, openly: bool) -> bytes:
        values = self._added_up(own, others, found)
        if openly:
            exemplars = {metric: _exemplars(metric, [own, *others], found.sees) for metric in METRICS}
            collector = _Collector(values, exemplars, floatToGoString)
            return bytes(generate_open_metrics(_registry(collector)))  # type: ignore[no-untyped-call]
        return generate_latest(_registry(_Collector(values, {}, lambda bound: f"{bound:g}")))

    def _added_up(self, own: Snapshot, others: list[Snapshot], found: _StoreReading) -> dict[Metric, Values]:
        alive = [own, *(other for other in others if own.at_s - other.at_s < _ALIVE_S)]
        values = {
            metric: _added(metric, alive if metric.kind == "gauge" else [own, *others], found.sees)
            for metric in METRICS
            if metric not in _NOT_METERED
        }
        values[QUEUE_DEPTHS_AGE] = {(): [found.age_s]}
        values[REDIS_UP] = {} if found.up is None else {(): [float(found.up)]}
        values[PROCESSES] = {(): [float(len(alive))]}
        values[BUILD_INFO] = {(self._version,): [1.0]}
        shown = bounded(found.depths, self._most_queues, found.sees)
        values[QUEUE_JOBS] = {
            (depth.queue, state): [float(count)] for depth in shown for state, count in depth.jobs.items()
        }
        values[QUEUE_OLDEST_SECONDS] = {(depth.queue,): [depth.oldest_waiting_s] for depth in shown}
        values[GROUP_JOBS], values[GROUP_OLDEST_SECONDS] = _of_groups(shown)
        return values


class _StoreReading(Struct, frozen=True):
    """Whether Redis answers (None: there is none), the depths of the queues, and which queues the caller may see."""

    up: bool | None
    depths: tuple[QueueDepth, ...]
    age_s: float
    sees: Sees


def _added(metric: Metric, snapshots: Iterable[Snapshot], sees: Sees) -> Values:
    """Return the values of a metric, added up over all processes."""
    values: Values = {}
    place = metric.labels.index(CAPPED) if CAPPED in metric.labels else None
    for snapshot in snapshots:
        for had, numbers in snapshot.metrics.get(metric.name, ()):
            hidden = place is not None and not sees(had[place])
            labels = as_other(metric, had) if hidden else had
            known = values.get(labels)
            values[labels] = numbers if known is None else [a + b for a, b in zip(known, numbers, strict=True)]
    if not metric.labels and not values:
        values[()] = [0.0] * (len(metric.buckets) + 2 if metric.buckets else 1)
    return values


def _of_groups(depths: Iterable[QueueDepth]) -> tuple[Values, Values]:
    """Return the jobs of groups, and their ages. A group that is called `other` counts among the others."""
    jobs: Values = {}
    ages: Values = {}
    for depth in depths:
        for group in depth.groups:
            for state, count in (("waiting", group.waiting), ("active", group.active)):
                jobs.setdefault((depth.queue, group.group, state), [0.0])[0] += count
            if group.group != OTHER:
                ages[depth.queue, group.group] = [group.oldest_waiting_s or 0.0]
    return jobs, ages


def _exemplars(metric: Metric, snapshots: Iterable[Snapshot], sees: Sees) -> Exemplars:
    """Return the latest exemplars of a metric; those of queues that the caller may not see are left out."""
    found: Exemplars = {}
    place = metric.labels.index(CAPPED) if CAPPED in metric.labels else None
    for snapshot in snapshots:
        for labels, buckets in snapshot.exemplars.get(metric.name, ()):
            if place is None or sees(labels[place]):
                known = found.setdefault(labels, {})
                known |= {bucket: latest(known.get(bucket), one) for bucket, one in buckets.items()}
    return found


def _registry(collector: _Collector) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return registry


class _Collector:
    """The values in the form that prometheus-client renders; `bound` writes the bounds of buckets."""

    def __init__(
        self, values: dict[Metric, Values], exemplars: dict[Metric, Exemplars], bound: Callable[[float], str]
    ) -> None:
        self._values = values
        self._exemplars = exemplars
        self._bound = bound

    def collect(self) -> Iterator[Family]:
        """Return all families, in the order of the table."""
        for metric in METRICS:
            values = self._values[metric]
            yield self._histogram(metric, values) if metric.buckets else _family(metric, values)

    def _histogram(self, metric: Metric, values: Values) -> Family:
        """Return a histogram, its buckets cumulated, as Prometheus has them."""
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds, exemplars = [*map(self._bound, metric.buckets), "+Inf"], self._exemplars.get(metric, {})
        for labels, (*counts, total) in sorted(values.items()):
            known = exemplars.get(labels, {})
            buckets: list[tuple[str, float] | tuple[str, float, FamilyExemplar]] = []
            for place, (bound, count) in enumerate(zip(bounds, accumulate(counts), strict=True)):
                one = known.get(place)
                buckets.append((bound, count) if one is None else (bound, count, _shown(one)))
            histogram.add_metric(labels, buckets, total)
        return histogram


def _shown(one: Exemplar) -> FamilyExemplar:
    return FamilyExemplar({"trace_id": one.trace_id, "span_id": one.span_id}, one.value, one.at_s)


def _family(metric: Metric, values: Values) -> Family:
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, (number,) in sorted(values.items()):
        family.add_metric(labels, number)
    return family
