"""The circuit breaker's table: what opens it, which attempt probes it, what closes it."""

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.delivery.rules.breaker import (
    HALF_OPEN_PAUSE_S,
    AttemptAllowed,
    AttemptBlocked,
    Breaker,
    BreakerState,
    FailedAttempt,
    Probe,
    Successes,
    admit,
    failed,
    held,
    left,
    passed,
    succeeded,
)
from toril.delivery.rules.target import BreakerPolicy

POLICY = BreakerPolicy(failures=3, window_s=30, open_for_s=15, half_open_probes=1)
TWO = BreakerPolicy(failures=3, window_s=30, open_for_s=15, half_open_probes=2)
BY_RATE = BreakerPolicy(failures=1000, failure_rate=0.5, min_attempts=20, window_s=30)
_numbers = itertools.count()


def a_failure(probe: str | None = None, hold_s: float = 0.0) -> FailedAttempt:
    """A failure of another delivery each time."""
    return FailedAttempt(f"delivery-{next(_numbers)}", probe, hold_s)


def opened(policy: BreakerPolicy = POLICY, at_s: float = 100.0) -> Breaker:
    breaker = Breaker()
    for _ in range(policy.failures):
        breaker = failed(breaker, policy, at_s, a_failure())
    assert breaker.state is BreakerState.OPEN
    return breaker


def half_open(policy: BreakerPolicy = POLICY) -> Breaker:
    breaker, admission = admit(opened(policy), policy, 115.0, "p1", 30.0)
    assert isinstance(admission, AttemptAllowed)
    assert breaker.state is BreakerState.HALF_OPEN
    return breaker


def test_a_new_breaker_allows_every_attempt() -> None:
    assert admit(Breaker(), POLICY, 0.0, "p", 30.0) == (Breaker(), AttemptAllowed())


def test_enough_failures_in_a_row_open_the_breaker_however_far_apart() -> None:
    breaker = Breaker()
    for at_s in (100.0, 1000.0):
        breaker = failed(breaker, POLICY, at_s, a_failure())
        assert breaker.state is BreakerState.CLOSED
    assert (breaker.counted, admit(breaker, POLICY, 1001.0, "p", 1.0)[1]) == (2, AttemptAllowed(row=2))
    breaker = failed(breaker, POLICY, 5000.0, a_failure())
    assert (breaker.state, breaker.opened_at_s, breaker.counted) == (BreakerState.OPEN, 5000.0, 3)


def test_a_success_ends_the_row_of_failures() -> None:
    breaker, policy = Breaker(), BreakerPolicy(failures=3, min_attempts=1000)
    for at_s in range(100, 200):
        for _ in range(2):
            breaker = failed(breaker, policy, float(at_s), a_failure())
        assert breaker.counted == 2
        breaker = succeeded(breaker, policy, float(at_s), Successes(1))
        assert (breaker.state, breaker.counted) == (BreakerState.CLOSED, 0)


def test_a_success_that_is_reported_late_leaves_the_failures_after_it() -> None:
    breaker = Breaker()
    for at_s in (100.0, 102.0):
        breaker = failed(breaker, POLICY, at_s, a_failure())
    breaker = succeeded(breaker, POLICY, 103.0, Successes(1, age_s=2.0))
    assert breaker.row == (102.0,)


def test_a_target_that_takes_nothing_is_shut_by_the_attempts_of_one_delivery() -> None:
    breaker = Breaker()
    for at_s in (100.0, 105.0, 115.0):
        assert breaker.state is BreakerState.CLOSED
        breaker = failed(breaker, POLICY, at_s, FailedAttempt("only"))
    assert breaker.state is BreakerState.OPEN


def test_where_others_succeed_the_failures_of_one_delivery_count_once_until_another_fails() -> None:
    breaker = Breaker()
    for at_s in range(1000):
        breaker = failed(breaker, POLICY, float(at_s), FailedAttempt("stubborn"))
        if not at_s % 2:
            breaker = succeeded(breaker, POLICY, float(at_s), Successes(1))
    assert breaker.state is BreakerState.CLOSED
    for name in ("another", "stubborn", "another"):
        breaker = failed(breaker, POLICY, 1000.0, FailedAttempt(name))
    assert breaker.state is BreakerState.OPEN


def rated(breaker: Breaker, at_s: float, successes: int, failures: int) -> Breaker:
    """Let so many succeed, and then fail, with single failures in a row."""
    breaker = succeeded(breaker, BY_RATE, at_s, Successes(successes))
    for _ in range(failures):
        breaker = failed(breaker, BY_RATE, at_s, a_failure())
    return breaker


def test_the_failure_rate_opens_the_breaker_once_there_were_enough_attempts() -> None:
    assert rated(Breaker(), 100.0, 9, 10).state is BreakerState.CLOSED, "19 attempts"
    breaker = rated(Breaker(), 100.0, 10, 10)
    assert (breaker.state, breaker.counted) == (BreakerState.OPEN, 10)
    assert rated(Breaker(), 100.0, 11, 10).state is BreakerState.CLOSED, "less than half"


def test_the_failure_rate_is_that_of_the_window() -> None:
    before = rated(Breaker(), 100.0, 100, 0)
    assert rated(before, 120.0, 0, 50).state is BreakerState.CLOSED
    assert rated(before, 131.0, 0, 20).state is BreakerState.OPEN, "what was 31 s ago does not count"


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_target_with_few_errors_at_200_a_second_is_never_shut(seed: int) -> None:
    chance, breaker, policy = random.Random(seed), Breaker(), BreakerPolicy()
    for number in range(200 * 60):
        now_s = 1000.0 + number / 200
        if chance.random() < 0.005:
            breaker = failed(breaker, policy, now_s, a_failure())
        else:
            breaker = succeeded(breaker, policy, now_s, Successes(1))
        assert breaker.state is BreakerState.CLOSED
    assert sum(one.attempts for one in breaker.slices) == pytest.approx(200 * 28.5, abs=200 * 1.6)


def test_while_open_every_attempt_is_blocked_for_the_remaining_time() -> None:
    for now_s in (100.0, 110.0, 114.5):
        breaker, admission = admit(opened(), POLICY, now_s, "p", 30.0)
        assert breaker == opened()
        assert admission == AttemptBlocked(115.0 - now_s)


def test_after_the_pause_the_first_attempt_is_a_probe_and_the_others_wait() -> None:
    breaker, admission = admit(opened(), POLICY, 115.0, "p1", 30.0)
    assert admission == AttemptAllowed(probe=True, last=True)
    for now_s in (115.0, 120.0, 144.9):
        breaker, admission = admit(breaker, POLICY, now_s, "p2", 30.0)
        assert isinstance(admission, AttemptBlocked)


def test_as_many_probes_are_allowed_as_the_policy_has() -> None:
    breaker, first = admit(opened(TWO), TWO, 115.0, "p1", 30.0)
    breaker, second = admit(breaker, TWO, 115.0, "p2", 30.0)
    _, third = admit(breaker, TWO, 115.0, "p3", 30.0)
    assert (first, second) == (AttemptAllowed(probe=True), AttemptAllowed(probe=True, last=True))
    assert isinstance(third, AttemptBlocked)


def test_a_successful_probe_closes_the_breaker() -> None:
    assert passed(half_open(), POLICY, "p1") == Breaker()


def test_all_probes_must_succeed() -> None:
    breaker, _ = admit(half_open(TWO), TWO, 115.0, "p2", 30.0)
    breaker = passed(breaker, TWO, "p1")
    assert (breaker.state, breaker.passed) == (BreakerState.HALF_OPEN, 1)
    _, admission = admit(breaker, TWO, 116.0, "p3", 30.0)
    assert isinstance(admission, AttemptBlocked), "two probes have been let through"
    assert passed(breaker, TWO, "p2") == Breaker()


def test_a_failed_probe_reopens_the_breaker_from_now_on() -> None:
    breaker = failed(half_open(), POLICY, 140.0, a_failure("p1"))
    assert (breaker.state, breaker.opened_at_s, breaker.probes) == (BreakerState.OPEN, 140.0, ())
    assert admit(breaker, POLICY, 141.0, "p", 1.0)[1] == AttemptBlocked(14.0)


def test_a_probe_that_was_aborted_or_has_expired_frees_its_place() -> None:
    _, admission = admit(left(half_open(), "p1"), POLICY, 116.0, "p2", 30.0)
    assert isinstance(admission, AttemptAllowed)
    breaker, admission = admit(half_open(), POLICY, 145.0, "p2", 30.0)
    assert isinstance(admission, AttemptAllowed)
    assert breaker.probes == (Probe("p2", 175.0),)


@pytest.mark.parametrize("breaker", [opened(), half_open()])
def test_attempts_that_began_before_the_breaker_opened_do_not_count(breaker: Breaker) -> None:
    assert failed(breaker, POLICY, 116.0, a_failure()) == breaker
    assert failed(breaker, POLICY, 116.0, a_failure("somebody")) == breaker
    assert passed(breaker, POLICY, "somebody") == breaker
    assert succeeded(breaker, POLICY, 116.0, Successes(5)) == breaker


def test_a_probe_that_asks_again_keeps_its_place_or_finds_it_taken() -> None:
    breaker, admission = admit(half_open(), POLICY, 140.0, "p1", 30.0)
    assert admission == AttemptAllowed(probe=True, last=True)
    assert breaker.probes == (Probe("p1", 170.0),)
    breaker, admission = admit(half_open(), POLICY, 146.0, "p2", 30.0)
    assert isinstance(admission, AttemptAllowed), "the first one's place has expired"
    assert admit(breaker, POLICY, 147.0, "p1", 30.0)[1] == AttemptBlocked(HALF_OPEN_PAUSE_S)


def test_a_hold_blocks_every_attempt_and_the_longest_counts() -> None:
    breaker = held(held(Breaker(), 100.0, 60.0), 101.0, 10.0)
    assert breaker.held_until_s == 160.0
    for policy in (POLICY, None):
        assert admit(breaker, policy, 110.0, "p", 1.0)[1] == AttemptBlocked(50.0)
        assert admit(breaker, policy, 160.0, "p", 1.0)[1] == AttemptAllowed()


def test_a_failure_that_holds_counts_too_and_the_hold_outlives_the_breaker() -> None:
    breaker = Breaker()
    for _ in range(3):
        breaker = failed(breaker, POLICY, 100.0, a_failure(hold_s=60.0))
    assert (breaker.state, breaker.held_until_s) == (BreakerState.OPEN, 160.0)
    assert admit(breaker, POLICY, 120.0, "p1", 1.0)[1] == AttemptBlocked(40.0), "half-open comes after the hold"
    breaker, _ = admit(breaker, POLICY, 161.0, "p1", 1.0)
    breaker = passed(held(breaker, 161.0, 5.0), POLICY, "p1")
    assert (breaker.state, breaker.held_until_s) == (BreakerState.CLOSED, 166.0)


def test_without_a_policy_a_failure_only_holds() -> None:
    assert failed(Breaker(), None, 100.0, a_failure(hold_s=5.0)) == Breaker(held_until_s=105.0)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "failed", "passed", "left"]),
        st.sampled_from([f"p{number}" for number in range(6)]),
        st.floats(0, 20),
    ),
    max_size=80,
)
POLICIES = st.builds(
    BreakerPolicy,
    failures=st.integers(1, 4),
    window_s=st.floats(1, 30),
    open_for_s=st.floats(1, 30),
    half_open_probes=st.integers(1, 3),
)


@given(POLICIES, EVENTS)
def test_there_are_never_more_probes_than_places_and_none_while_open(policy: BreakerPolicy, events: Any) -> None:
    breaker, now_s = Breaker(), 1000.0
    for event, probe, step_s in events:
        now_s += step_s
        before = breaker
        match event:
            case "admit":
                breaker, admission = admit(breaker, policy, now_s, probe, 10.0)
                if before.state is BreakerState.CLOSED:
                    assert admission == AttemptAllowed(row=before.counted)
                if before.state is BreakerState.OPEN and now_s < (before.opened_at_s or 0) + policy.open_for_s - 1e-6:
                    assert isinstance(admission, AttemptBlocked)
                    assert admission.for_s > 0
            case "failed":
                breaker = failed(breaker, policy, now_s, a_failure(probe))
            case "passed":
                breaker = passed(breaker, policy, probe)
            case _:
                breaker = left(breaker, probe)
        assert len(breaker.probes) + breaker.passed <= policy.half_open_probes
        assert len(breaker.row) < policy.failures
        assert (breaker.opened_at_s is None) == (breaker.state is BreakerState.CLOSED)
        if breaker.state is not BreakerState.HALF_OPEN:
            assert breaker.probes == ()
            assert breaker.passed == 0


@given(POLICIES, EVENTS)
def test_a_breaker_whose_probes_succeed_always_closes(policy: BreakerPolicy, events: Any) -> None:
    breaker, now_s = opened(policy), 100.0
    for event, probe, step_s in events:
        now_s += step_s
        if event == "admit":
            breaker, _ = admit(breaker, policy, now_s, probe, 10.0)
        elif event == "failed":
            breaker = failed(breaker, policy, now_s, a_failure(probe))
    now_s += policy.open_for_s + 10.0
    for number in range(policy.half_open_probes):
        if breaker.state is BreakerState.CLOSED:
            break
        breaker, admission = admit(breaker, policy, now_s, f"good{number}", 10.0)
        assert isinstance(admission, AttemptAllowed)
        breaker = passed(breaker, policy, f"good{number}")
    assert breaker.state is BreakerState.CLOSED
