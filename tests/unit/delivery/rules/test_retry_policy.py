import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.delivery.rules.retry_policy import RetryPolicy, wait_s


@given(st.integers(1, 10**6), st.floats(0, 0.999), st.floats(0, 1e4), st.floats(0, 1), st.floats(0, 1e6))
def test_a_delivery_s_wait_is_never_longer_than_the_longest(
    attempt: int, chance: float, base_s: float, jitter: float, max_s: float
) -> None:
    policy = RetryPolicy(base_s=base_s, max_s=max_s, jitter=jitter)
    waited = wait_s(policy, attempt, lambda: chance)
    assert 0 <= waited <= max_s
    whole = wait_s(policy, attempt, lambda: 0.0)
    assert waited >= whole * (1 - jitter) - 1e-9


def test_a_delivery_s_wait_doubles_up_to_the_longest() -> None:
    policy = RetryPolicy(base_s=1, max_s=10, jitter=0)
    assert [wait_s(policy, attempt, lambda: 0.5) for attempt in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    fixed = RetryPolicy(base_s=3, max_s=10, jitter=0, backoff="fixed")
    assert {wait_s(fixed, attempt, lambda: 0.5) for attempt in range(1, 7)} == {3}


def test_by_default_a_delivery_is_tried_for_a_day() -> None:
    policy = RetryPolicy()
    waits = [wait_s(policy, attempt, lambda: 0.5) for attempt in range(1, policy.max_attempts)]
    assert (policy.max_attempts, sum(waits) / 0.9 / 3600) == (16, pytest.approx(23.4, abs=0.1))
    assert [wait_s(policy, attempt, lambda: 0.0) for attempt in (1, 2, 3, 13, 14, 15)] == [
        5, 10, 20, 20_480, 21_600, 21_600,
    ]  # fmt: skip


def test_a_schedule_replaces_the_backoff_and_its_last_entry_repeats() -> None:
    policy = RetryPolicy(base_s=1, max_s=10, jitter=0.5, schedule=(5.0, 300.0, 7200.0))
    assert [wait_s(policy, attempt, lambda: 0.0) for attempt in range(1, 6)] == [5, 300, 7200, 7200, 7200]
    assert wait_s(policy, 2, lambda: 0.5) == 225


def test_jitter_takes_away_up_to_its_part() -> None:
    policy = RetryPolicy(base_s=10, max_s=100, jitter=0.2)
    assert (wait_s(policy, 1, lambda: 0.0), wait_s(policy, 1, lambda: 0.5)) == (10, 9)
