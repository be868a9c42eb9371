"""Tiny runs of what `benchmarks.growth` measures beside the adds: a cluster, a ledger, and memory."""

import shutil

import pytest
from benchmarks import growth_ledger
from benchmarks.growing import Options
from benchmarks.growth_cluster import cluster
from benchmarks.growth_memory import memory

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the load generator is compiled with gcc")


def test_a_ledger_is_filled_with_what_toril_lists_and_both_sizes_are_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each answer of a measurement must be below 400, so the rows are such that toril can read them."""
    monkeypatch.setattr(growth_ledger, "_FEW", 60)
    found = growth_ledger.ledger(Options(seconds=0.3, rounds=1, rows=700))
    assert list(found) == ["60", "700"]
    assert all(figures["ms p50 a page in the middle"] > 0 for figures in found.values())
    assert [figures["rows made"] for figures in found.values()] == [60, 700]


def test_memory_is_told_for_each_minute_and_jobs_are_pushed_meanwhile() -> None:
    found = memory(Options(minutes=2), minute_s=1.0)
    assert list(found) == ["minute 1", "minute 2"]
    assert all(figures["MB of toril"] > 1 and figures["jobs/s pushed"] > 0 for figures in found.values())


def test_queues_are_spread_over_the_nodes_of_a_cluster_and_each_does_a_part() -> None:
    found = cluster(Options(seconds=0.3, rounds=1))
    assert list(found) == ["1 node", "3 nodes"]
    assert found["1 node"]["queues at least"] == 300
    three = found["3 nodes"]
    assert 60 < three["queues at least"] <= 100 <= three["queues at most"] < 140
    assert 0 < three["µs of the busiest node an add"] < three["µs of all nodes an add"]
