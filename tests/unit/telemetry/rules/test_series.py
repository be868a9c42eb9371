import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.metrics import PATIENT_S, QUICK_S
from toril.telemetry.rules.points import ACCEPTED, FAILED, FINISHED, TOOK, WAITS, Counts
from toril.telemetry.rules.series import Percentiles, added, attempts, percentiles, quantile, series, summed

BOUNDS = (1.0, 2.0, 4.0)


def test_a_series_has_a_count_for_each_point() -> None:
    points: list[Counts] = [{ACCEPTED: 3}, {}, {FINISHED: 2, FAILED: 1, WAITS: 2, WAITS + 5: 1, TOOK + 1: 3}]
    found = series(points)
    assert (found.accepted, found.started) == ([3, 0, 0], [0, 0, 3])
    assert (found.finished, found.failed) == ([0, 0, 2], [0, 0, 1])
    assert found.attempt_ms is not None
    assert QUICK_S[0] * 1000 < found.attempt_ms.p50 <= QUICK_S[1] * 1000
    assert found.wait_ms is not None
    assert PATIENT_S[4] * 1000 < found.wait_ms.p99 <= PATIENT_S[5] * 1000


def test_where_nothing_was_timed_there_are_no_percentiles() -> None:
    assert series([{ACCEPTED: 1}, {}]).wait_ms is None
    assert percentiles([0, 0, 0, 0], BOUNDS) is None


@pytest.mark.parametrize(
    ("buckets", "part", "value"),
    [
        ([10, 0, 0, 0], 0.5, 0.5),
        ([0, 10, 0, 0], 0.5, 1.5),
        ([5, 5, 0, 0], 0.5, 1.0),
        ([0, 0, 4, 0], 0.25, 2.5),
        ([0, 0, 0, 3], 0.5, 4.0),
        ([99, 0, 0, 1], 0.99, 1.0),
    ],
)
def test_values_are_taken_to_be_spread_evenly_in_their_bucket(buckets: list[int], part: float, value: float) -> None:
    assert quantile(buckets, BOUNDS, part) == pytest.approx(value)


@given(values=st.lists(st.floats(0, 4.0), min_size=1, max_size=200), part=st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_in_the_bucket_of_the_true_one(values: list[float], part: float) -> None:
    buckets = [0] * (len(BOUNDS) + 1)
    for value in values:
        buckets[sum(value > bound for bound in BOUNDS)] += 1
    true = sorted(values)[max(0, -int(-part * len(values) // 1) - 1)]
    found = quantile(buckets, BOUNDS, part)
    place = sum(true > bound for bound in BOUNDS)
    assert (BOUNDS[place - 1] if place else 0.0) <= found <= BOUNDS[place]


def test_percentiles_are_in_milliseconds() -> None:
    assert percentiles([0, 10, 0, 0], BOUNDS) == Percentiles(1500.0, 1990.0)


def test_points_of_several_scopes_are_added_point_by_point() -> None:
    assert added([[{1: 2}, {}], [{1: 1, 2: 5}, {3: 1}]], 2) == [{1: 3, 2: 5}, {3: 1}]
    assert added([], 2) == [{}, {}]
    assert summed([{1: 2}, {1: 1, 2: 1}]) == {1: 3, 2: 1}
    assert attempts({TOOK: 2, TOOK + 3: 1, WAITS: 9}) == 3
