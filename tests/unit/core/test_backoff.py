import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from toril.core.backoff import Backoff, delay_ms

delays = st.one_of(st.integers(0, 10**9), st.floats(0, 1e9))
jitters = st.floats(0, 1)
chances = st.floats(0, 1, exclude_max=True)
attempts = st.integers(1, 60)


def never() -> float:
    raise AssertionError("no chance is needed without jitter")


def js_round(number: float) -> int:
    """JavaScript's `Math.round`."""
    return math.floor(number + 0.5)


def test_without_backoff_there_is_no_wait() -> None:
    assert delay_ms(None, 3, never) == 0


@given(st.integers(0, 10**9), attempts)
def test_a_fixed_delay_is_the_same_every_time(delay: int, attempt: int) -> None:
    assert delay_ms(Backoff("fixed", delay), attempt, never) == delay


@given(delays, st.integers(1, 40))
@example(0.5, 1)
@example(2.5, 1)
@example(1.5, 1)
def test_an_exponential_delay_is_bullmqs(delay: float, attempt: int) -> None:
    assert delay_ms(Backoff("exponential", delay), attempt, never) == js_round(2 ** (attempt - 1) * delay)


@given(st.integers(1, 10**6), attempts)
def test_an_exponential_delay_never_shrinks(delay: int, attempt: int) -> None:
    first = delay_ms(Backoff("exponential", delay), attempt, never)
    then = delay_ms(Backoff("exponential", delay), attempt + 1, never)
    assert first is not None
    assert then is not None
    assert delay <= first <= then


@given(st.integers(0, 10**9), jitters.filter(bool), chances)
def test_a_fixed_delay_with_jitter_is_bullmqs(delay: int, jitter: float, chance: float) -> None:
    found = delay_ms(Backoff("fixed", delay, jitter), 2, lambda: chance)
    assert found == math.floor(chance * delay * jitter + delay * (1 - jitter))


@given(st.integers(0, 10**6), st.integers(1, 30), jitters.filter(bool), chances)
def test_an_exponential_delay_with_jitter_is_bullmqs(delay: int, attempt: int, jitter: float, chance: float) -> None:
    most = js_round(2 ** (attempt - 1) * delay)
    found = delay_ms(Backoff("exponential", delay, jitter), attempt, lambda: chance)
    assert found == math.floor(chance * most * jitter + most * (1 - jitter))


@given(st.sampled_from(("fixed", "exponential")), delays, st.integers(1, 30), jitters, chances)
def test_jitter_takes_away_and_never_adds(kind: str, delay: float, attempt: int, jitter: float, chance: float) -> None:
    full = delay_ms(Backoff(kind, delay), attempt, never)
    found = delay_ms(Backoff(kind, delay, jitter), attempt, lambda: chance)
    assert full is not None
    assert found is not None
    # One for the floor, and half a one because without jitter a fraction is rounded up at most that far.
    assert full * (1 - jitter) - 1.5 <= found <= full


@given(st.sampled_from(("fixed", "exponential")), st.floats(-1e15, 1e15), st.integers(1, 2**31), jitters, chances)
@example("exponential", 2.0**52, 2**31, 0.0, 0.0)
def test_any_stored_backoff_gives_milliseconds(
    kind: str, delay: float, attempt: int, jitter: float, chance: float
) -> None:
    found = delay_ms(Backoff(kind, delay, jitter), attempt, lambda: chance)
    assert type(found) is int
    assert found >= 0


@pytest.mark.parametrize("kind", ["custom", "", "Fixed"])
def test_an_unknown_strategy_gives_no_delay(kind: str) -> None:
    assert delay_ms(Backoff(kind, 100), 1, never) is None
