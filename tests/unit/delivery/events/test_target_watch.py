import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.delivery.events.target_watch import SHARES, crossed


@pytest.mark.parametrize(
    ("most", "found"),
    [
        (16, {8: 50, 15: 90, 16: 100}), (4, {2: 50, 4: 100}), (2, {1: 50, 2: 100}), (1, {1: 100}),
        (10, {5: 50, 9: 90, 10: 100}),
    ],
)  # fmt: skip
def test_of_several_thresholds_that_an_attempt_reaches_the_highest_counts(most: int, found: dict[int, int]) -> None:
    told = {spent: share for spent in range(1, most + 1) if (share := crossed(spent, most))}
    assert told == found


@given(st.integers(1, 10_000))
def test_each_threshold_is_crossed_by_one_attempt_at_most_and_the_last_by_the_last(most: int) -> None:
    told = [share for spent in range(1, min(most, 10_000) + 1) if (share := crossed(spent, most))]
    assert told == sorted(set(told))
    assert told[-1] == SHARES[-1]
