"""What every `Meter` promises, over the fake and the real one; and what several processes make of it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics_families
from prometheus_client.parser import text_string_to_metric_families

from toril.core.errors import StoreUnavailable
from toril.core.metrics import (
    ATTEMPT_SECONDS,
    ATTEMPTS,
    GROUP_HELD,
    JOBS_STALLED,
    METRICS,
    OPEN_SOCKETS,
    OTHER,
    REQUEST_SECONDS,
    Metric,
    QueueDepth,
)
from toril.core.ports import Meter
from toril.telemetry.prometheus_exposition import PrometheusExposition
from toril.telemetry.prometheus_meter import PrometheusMeter
from toril.testing import FakeMeter

LABELS = ("GET", "/health", "2xx")
Counted = Callable[[Meter, Metric, tuple[str, ...]], float]
OPENLY = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3"
"""What Prometheus sends as `Accept`."""
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def counted(meter: Meter, metric: Metric, labels: tuple[str, ...]) -> float:
    if isinstance(meter, FakeMeter):
        return meter.counts.get((metric, labels), 0.0)
    assert isinstance(meter, PrometheusMeter)
    return dict(meter.snapshot().metrics[metric.name]).get(labels, [0.0])[0]


def observed(meter: Meter, metric: Metric, labels: tuple[str, ...]) -> tuple[int, float]:
    """How many values a histogram has, and their sum."""
    if isinstance(meter, FakeMeter):
        values = [value for known, value in meter.values(metric) if known == labels]
        return len(values), sum(values)
    assert isinstance(meter, PrometheusMeter)
    *counts, total = dict(meter.snapshot().metrics[metric.name])[labels]
    return int(sum(counts)), total


@pytest.fixture(params=["fake", "prometheus"])
def meter(request: pytest.FixtureRequest) -> Meter:
    return FakeMeter() if request.param == "fake" else PrometheusMeter(100, lambda: 0.0)


def test_counters_add_up_by_their_labels(meter: Meter) -> None:
    meter.count(JOBS_STALLED, ("a",))
    meter.count(JOBS_STALLED, ("a",), 2.0)
    meter.count(JOBS_STALLED, ("b",))
    assert counted(meter, JOBS_STALLED, ("a",)) == 3
    assert counted(meter, JOBS_STALLED, ("b",)) == 1


def test_a_series_that_is_forgotten_begins_at_0_again(meter: Meter) -> None:
    one, another = ("a", "acme", "rate"), ("a", "acme", "paused")
    for labels in (one, one, another):
        meter.count(GROUP_HELD, labels)
    meter.forget(GROUP_HELD, one)
    meter.forget(GROUP_HELD, ("a", "unknown", "rate"))
    assert (counted(meter, GROUP_HELD, one), counted(meter, GROUP_HELD, another)) == (0, 1)
    meter.count(GROUP_HELD, one)
    assert counted(meter, GROUP_HELD, one) == 1


def test_the_groups_of_queues_without_a_name_are_one_series() -> None:
    meter = PrometheusMeter(1, lambda: 0.0)
    for queue in ("a", "b", "c"):
        meter.count(GROUP_HELD, (queue, f"group-of-{queue}", "rate"))
    series = dict(meter.snapshot().metrics[GROUP_HELD.name])
    assert series == {("a", "group-of-a", "rate"): [1.0], (OTHER, OTHER, "rate"): [2.0]}


def test_a_gauge_can_fall(meter: Meter) -> None:
    for by in (1.0, 1.0, -1.0):
        meter.count(OPEN_SOCKETS, ("/ws",), by)
    assert counted(meter, OPEN_SOCKETS, ("/ws",)) == 1


def test_histograms_keep_how_many_and_how_much(meter: Meter) -> None:
    for value in (0.002, 0.5, 1000.0):
        meter.observe(REQUEST_SECONDS, LABELS, value)
    assert observed(meter, REQUEST_SECONDS, LABELS) == (3, pytest.approx(1000.502))


class Depths:
    """Queues with given depths."""

    def __init__(self, *depths: QueueDepth) -> None:
        self.depths = {depth.queue: depth for depth in depths}
        self.asked: list[list[str]] = []
        self.down = False

    async def read(self, queues: list[str]) -> list[QueueDepth]:  # type: ignore[override]
        self.asked.append(list(queues))
        return [self.depths[queue] for queue in queues if queue in self.depths]

    async def ping(self) -> bool:
        if self.down:
            raise StoreUnavailable
        return True


def exposition(
    meter: PrometheusMeter,
    depths: Depths | None = None,
    queues: tuple[str, ...] = (),
    most: int = 100,
    traced: bool = False,
) -> PrometheusExposition:
    depths = depths or Depths()
    return PrometheusExposition(
        meter,
        depths,  # type: ignore[arg-type]
        depths.ping,
        lambda: queues,
        version="1.2.3",
        most_queues=most,
        traced=traced,
    )


async def scraped(shown: PrometheusExposition, sees: Callable[[str], bool] = lambda _: True) -> Samples:
    kind, text = await shown.text(sees)
    assert kind.startswith(b"text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, tuple(sorted(labels.items()))))


async def test_every_metric_of_the_table_is_shown_also_before_anything_has_happened() -> None:
    _, text = await exposition(PrometheusMeter(100, lambda: 0.0)).text(lambda _: True)
    for metric in METRICS:
        assert f"# TYPE {metric.name} {metric.kind}\n".encode() in text


async def test_each_histogram_bucket_includes_the_smaller_ones() -> None:
    meter = PrometheusMeter(100, lambda: 0.0)
    for value in (0.0005, 0.001, 0.0011, 0.3, 61.0):
        meter.observe(REQUEST_SECONDS, LABELS, value)
    samples = await scraped(exposition(meter))
    labels = dict(zip(REQUEST_SECONDS.labels, LABELS, strict=True))
    bucket = f"{REQUEST_SECONDS.name}_bucket"
    found = [of(samples, bucket, le=f"{bound:g}", **labels) for bound in (0.001, 0.0025, 0.25, 0.5, 60)]
    assert found == [2, 3, 3, 4, 4]
    assert of(samples, bucket, le="+Inf", **labels) == 5
    assert of(samples, f"{REQUEST_SECONDS.name}_count", **labels) == 5
    assert of(samples, f"{REQUEST_SECONDS.name}_sum", **labels) == pytest.approx(61.3026)


async def test_queues_over_the_limit_are_summed_as_other() -> None:
    meter = PrometheusMeter(2, lambda: 0.0)
    for number in range(50):
        meter.count(JOBS_STALLED, (f"q-{number}",))
        meter.count(ATTEMPTS, ("push_worker", f"q-{number}", "2xx", "complete"))
    depths = Depths(*(QueueDepth(f"q-{number}", {"waiting": 1}, number) for number in range(50)))
    samples = await scraped(exposition(meter, depths, tuple(depths.depths), most=2))
    stalled = {labels: value for (name, labels), value in samples.items() if name == JOBS_STALLED.name}
    assert stalled == {(("queue", "q-0"),): 1, (("queue", "q-1"),): 1, (("queue", "other"),): 48}
    assert of(samples, ATTEMPTS.name, kind="push_worker", queue="other", outcome="2xx", verdict="complete") == 48
    assert of(samples, "toril_queue_jobs", queue="other", state="waiting") == 48
    assert of(samples, "toril_queue_oldest_waiting_age_seconds", queue="other") == 49
    assert len({dict(labels)["queue"] for (_, labels), _ in samples.items() if "queue" in dict(labels)}) <= 4


async def test_queues_that_the_caller_may_not_see_are_among_the_others() -> None:
    meter = PrometheusMeter(100, lambda: 0.0)
    for queue in ("ours", "theirs", "secret"):
        meter.count(JOBS_STALLED, (queue,))
        meter.count(ATTEMPTS, ("push_worker", queue, "2xx", "complete"))
    depths = Depths(*(QueueDepth(queue, {"waiting": 2}) for queue in ("ours", "theirs", "secret")))
    samples = await scraped(exposition(meter, depths), lambda queue: queue == "ours")
    assert {dict(labels)["queue"] for _, labels in samples if "queue" in dict(labels)} == {"ours", "other"}
    assert of(samples, JOBS_STALLED.name, queue="other") == 2
    assert of(samples, ATTEMPTS.name, kind="push_worker", queue="other", outcome="2xx", verdict="complete") == 2
    assert of(samples, "toril_queue_jobs", queue="other", state="waiting") == 4


async def test_label_values_are_escaped() -> None:
    meter = PrometheusMeter(100, lambda: 0.0)
    name = 'a"b\\c\nd'
    meter.count(JOBS_STALLED, (name,))
    assert of(await scraped(exposition(meter)), JOBS_STALLED.name, queue=name) == 1


async def test_without_redis_all_but_the_queues_is_shown() -> None:
    meter = PrometheusMeter(100, lambda: 0.0)
    meter.count(JOBS_STALLED, ("a",))
    depths = Depths(QueueDepth("a", {"waiting": 1}))
    shown = exposition(meter, depths)
    assert of(await scraped(shown), "toril_redis_up") == 1
    depths.down = True
    samples = await scraped(shown)
    assert of(samples, "toril_redis_up") == 0
    assert of(samples, JOBS_STALLED.name, queue="a") == 1
    assert of(samples, "toril_queue_jobs", queue="a", state="waiting") is None


async def test_queues_are_read_once_for_scrapes_in_a_row() -> None:
    meter = PrometheusMeter(100, lambda: 0.0)
    meter.count(JOBS_STALLED, ("measured",))
    depths = Depths(QueueDepth("measured", {"waiting": 1}))
    shown = exposition(meter, depths, ("worked-on",))
    for _ in range(3):
        await scraped(shown)
    assert depths.asked == [["measured", "worked-on"]]


def context(trace: int, flags: str = "01") -> list[tuple[bytes, bytes]]:
    return [(b"traceparent", f"00-{trace:032x}-{trace:016x}-{flags}".encode())]


async def exemplars(
    shown: PrometheusExposition, sees: Callable[[str], bool] = lambda _: True
) -> dict[tuple[str, str], tuple[int, float, float]]:
    """The trace, the value and the time of each exemplar, by the queue or status of its series and its bucket."""
    kind, text = await shown.text(sees, OPENLY)
    assert kind.startswith(b"application/openmetrics-text; version=1.0.0")
    return {
        (sample.labels.get("queue") or sample.labels["status"], sample.labels["le"]): (
            int(one.labels["trace_id"], 16),
            one.value,
            float(one.timestamp),
        )
        for family in open_metrics_families(text.decode())
        for sample in family.samples
        if (one := sample.exemplar)
    }


class TestExemplars:
    """The latest trace of each bucket, for those who read OpenMetrics."""

    @pytest.fixture
    def meter(self) -> PrometheusMeter:
        return PrometheusMeter(2, lambda: 100.0)

    async def test_each_bucket_has_its_latest_trace(self, meter: PrometheusMeter) -> None:
        for trace, value in ((1, 0.003), (2, 0.004), (3, 1.0), (4, 70.0)):
            meter.observe(REQUEST_SECONDS, LABELS, value, context(trace))
        meter.observe(REQUEST_SECONDS, LABELS, 0.003)
        found = await exemplars(exposition(meter, traced=True))
        assert found == {
            ("2xx", "0.005"): (2, 0.004, 100.0),
            ("2xx", "1.0"): (3, 1.0, 100.0),
            ("2xx", "+Inf"): (4, 70.0, 100.0),
        }

    async def test_a_trace_that_is_not_kept_is_no_exemplar(self, meter: PrometheusMeter) -> None:
        for trace in (context(1, "00"), context(2, "02"), [], [(b"baggage", b"a=1")], [(b"traceparent", b"x")]):
            meter.observe(REQUEST_SECONDS, LABELS, 0.003, trace)
        meter.observe(REQUEST_SECONDS, LABELS, 0.003, context(3, "03"))
        assert [one[0] for one in (await exemplars(exposition(meter, traced=True))).values()] == [3]

    async def test_both_formats_have_the_same_numbers(self, meter: PrometheusMeter) -> None:
        meter.observe(REQUEST_SECONDS, LABELS, 0.003, context(1))
        meter.count(ATTEMPTS, ("push_worker", "a", "2xx", "complete"))
        shown = exposition(meter, traced=True)
        plain = {name: value for (name, _), value in (await scraped(shown)).items()}
        _, text = await shown.text(lambda _: True, OPENLY)
        openly = {one.name: one.value for family in open_metrics_families(text.decode()) for one in family.samples}
        for samples in (plain, openly):
            del samples["toril_queue_depths_age_seconds"]  # which grows meanwhile
        assert plain == openly
        assert text.endswith(b"# EOF\n")

    @pytest.mark.parametrize(("accept", "traced"), [(OPENLY, False), ("", True), ("*/*", True)])
    async def test_without_traces_or_unasked_the_text_stays_as_it_is(
        self, meter: PrometheusMeter, accept: str, traced: bool
    ) -> None:
        meter.observe(REQUEST_SECONDS, LABELS, 0.003)
        before = await exposition(meter).text(lambda _: True)
        meter.observe(REQUEST_SECONDS, LABELS, 0.003, context(1))
        meter.count(JOBS_STALLED, ("a",))
        _, after = await exposition(meter, traced=traced).text(lambda _: True, accept)
        assert before[0].startswith(b"text/plain; version=0.0.4")
        assert (b" # {" in after, b'le="1"' in after) == (False, True)

    async def test_they_do_not_grow_with_queues_nor_show_hidden_ones(self, meter: PrometheusMeter) -> None:
        for number in range(500):
            meter.observe(ATTEMPT_SECONDS, ("push_worker", f"q-{number}"), 0.003, context(number + 1))
        ((_, series),) = meter.snapshot().exemplars.items()
        assert sorted(labels[1] for labels, _ in series) == ["other", "q-0", "q-1"]
        shown = exposition(meter, traced=True)
        assert {name for name, _ in await exemplars(shown)} == {"other", "q-0", "q-1"}
        assert {name for name, _ in await exemplars(shown, lambda queue: queue == "q-1")} == {"q-1"}

    async def test_those_of_all_processes_are_there_and_the_latest_wins(self, tmp_path: Path) -> None:
        ours, theirs = (PrometheusMeter(9, lambda now=now: now, os.fspath(tmp_path), now) for now in (100, 101))
        for meter, trace in ((theirs, 2), (ours, 1)):
            meter.observe(REQUEST_SECONDS, LABELS, 0.003, context(trace))
            meter.observe(ATTEMPT_SECONDS, ("push_worker", f"q-{trace}"), 0.003, context(trace))
            await meter.share()
        for meter in (ours, theirs):
            found = {name: one[0] for (name, _), one in (await exemplars(exposition(meter, traced=True))).items()}
            assert found == {"2xx": 2, "q-1": 1, "q-2": 2}


class TestSeveralProcesses:
    """Each shows the whole."""

    def meter(self, folder: Path, number: int, now: float = 100.0) -> PrometheusMeter:
        return PrometheusMeter(100, lambda: now, os.fspath(folder), number)

    async def test_every_process_shows_the_sum(self, tmp_path: Path) -> None:
        meters = [self.meter(tmp_path, number) for number in range(3)]
        for number, meter in enumerate(meters):
            meter.count(JOBS_STALLED, ("a",), number + 1)
            meter.count(OPEN_SOCKETS, ("/ws",), 2.0)
            meter.observe(REQUEST_SECONDS, LABELS, 0.01)
            await meter.share(("here",))
        labels = dict(zip(REQUEST_SECONDS.labels, LABELS, strict=True))
        for meter in meters:
            samples = await scraped(exposition(meter))
            assert of(samples, JOBS_STALLED.name, queue="a") == 6
            assert of(samples, OPEN_SOCKETS.name, route="/ws") == 6
            assert of(samples, f"{REQUEST_SECONDS.name}_count", **labels) == 3
            assert of(samples, "toril_processes") == 3

    async def test_the_queues_of_all_processes_are_read(self, tmp_path: Path) -> None:
        first, second = self.meter(tmp_path, 0), self.meter(tmp_path, 1)
        await second.share(("theirs",))
        depths = Depths()
        await scraped(exposition(first, depths, ("ours",)))
        assert depths.asked == [["ours", "theirs"]]

    async def test_a_process_that_ended_leaves_its_counters_but_not_its_gauges(self, tmp_path: Path) -> None:
        gone = self.meter(tmp_path, 1, now=80.0)
        gone.count(JOBS_STALLED, ("a",))
        gone.count(OPEN_SOCKETS, ("/ws",))
        await gone.share()
        samples = await scraped(exposition(self.meter(tmp_path, 0)))
        assert of(samples, JOBS_STALLED.name, queue="a") == 1
        assert of(samples, OPEN_SOCKETS.name, route="/ws") is None
        assert of(samples, "toril_processes") == 1

    async def test_a_restarted_process_resumes_its_counters(self, tmp_path: Path) -> None:
        before = self.meter(tmp_path, 1)
        before.count(JOBS_STALLED, ("a",), 5.0)
        before.observe(REQUEST_SECONDS, LABELS, 0.01)
        before.count(OPEN_SOCKETS, ("/ws",))
        await before.share()
        again = self.meter(tmp_path, 1)
        assert counted(again, JOBS_STALLED, ("a",)) == 5
        assert observed(again, REQUEST_SECONDS, LABELS) == (1, 0.01)
        assert counted(again, OPEN_SOCKETS, ("/ws",)) == 0
        again.count(JOBS_STALLED, ("a",))
        await again.share()
        assert of(await scraped(exposition(self.meter(tmp_path, 0))), JOBS_STALLED.name, queue="a") == 6

    async def test_an_unreadable_file_is_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "1.metrics").write_bytes(b"\x00 half of it")
        meter = self.meter(tmp_path, 0)
        meter.count(JOBS_STALLED, ("a",))
        assert of(await scraped(exposition(meter)), JOBS_STALLED.name, queue="a") == 1

    async def test_a_removed_folder_is_tolerated(self, tmp_path: Path) -> None:
        meter = self.meter(tmp_path / "gone", 0)
        meter.count(JOBS_STALLED, ("a",))
        await meter.share()
        assert of(await scraped(exposition(meter)), JOBS_STALLED.name, queue="a") == 1
