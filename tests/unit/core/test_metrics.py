import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.metrics import ATTEMPTS, CAPPED, GROUP_HELD, METRICS, OTHER, QueueDepth, as_other, bounded, word
from toril.core.outcome import CutOff

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
ROW = re.compile(r"\| `(toril_[a-z_]+)` \| (\w+) \| ([^|]*) \|")
names = st.lists(st.text(st.characters(codec="utf-8"), min_size=1), unique=True, max_size=30)


def test_names_are_those_that_prometheus_asks_for() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"toril_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert ("_seconds" in metric.name) or metric.kind != "histogram"
        assert all(re.fullmatch(r"[a-z]+", label) and label != "le" for label in metric.labels)
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_a_group_is_hidden_with_its_queue() -> None:
    assert as_other(GROUP_HELD, ("secret", "acme", "rate")) == (OTHER, OTHER, "rate")
    assert as_other(ATTEMPTS, ("push_worker", "secret", "2xx", "retry")) == ("push_worker", OTHER, "2xx", "retry")


def test_histograms_have_buckets_in_order_and_nothing_else_has() -> None:
    for metric in METRICS:
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert sorted(set(metric.buckets)) == list(metric.buckets)


def test_the_metrics_reference_lists_every_metric_and_no_other() -> None:
    rows = [found.groups() for line in REFERENCE.read_text().splitlines() if (found := ROW.match(line))]
    said = [
        (name, kind, tuple(label.strip(" `") for label in labels.split(",") if label.strip()))
        for name, kind, labels in rows
    ]
    assert said == [(metric.name, metric.kind, metric.labels) for metric in METRICS]


def test_a_class_name_becomes_a_label_value() -> None:
    assert word(CutOff) == "cut_off"


@given(names, st.integers(1, 10))
def test_depths_are_bounded_and_lose_no_job(queues: list[str], most: int) -> None:
    depths = [
        QueueDepth(queue, {"waiting": place + 1, "failed": 2}, float(place)) for place, queue in enumerate(queues)
    ]
    shown = bounded(depths, most, lambda queue: len(queue) % 2 == 0)
    assert all(len(depth.queue) % 2 == 0 or depth.queue == OTHER for depth in shown)
    assert len(shown) <= most + 1
    for state in ("waiting", "failed"):
        assert sum(depth.jobs.get(state, 0) for depth in shown) == sum(depth.jobs[state] for depth in depths)
    assert max((depth.oldest_waiting_s for depth in shown), default=0) == max(
        (depth.oldest_waiting_s for depth in depths), default=0
    )


def test_queues_over_the_limit_are_summed_as_other() -> None:
    depths = [QueueDepth(queue, {"waiting": 1}, age) for queue, age in (("c", 1.0), ("a", 2.0), ("b", 3.0))]
    assert bounded(depths, 2, lambda _: True) == [
        QueueDepth("a", {"waiting": 1}, 2.0),
        QueueDepth("b", {"waiting": 1}, 3.0),
        QueueDepth(OTHER, {"waiting": 1}, 1.0),
    ]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_only_the_bounded_label_holds_names(metric: object) -> None:
    known = {
        CAPPED,
        "kind",
        "outcome",
        "verdict",
        "group",  # the twenty largest of a queue, and one for the others
        "method",
        "route",
        "status",
        "door",
        "way",
        "connection",
        "state",
        "version",
        "type",
        "reason",
        "change",
    }
    assert set(metric.labels) <= known  # type: ignore[attr-defined]
