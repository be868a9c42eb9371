"""The circuit breaker's table: what opens it, who may try, what closes it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.core.breaker import (
    Breaker,
    BreakerState,
    Go,
    Probe,
    Wait,
    admit,
    failed,
    left,
    passed,
    speaks_against,
)
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, TimedOut
from toril.core.target import BreakerPolicy

POLICY = BreakerPolicy(failures=3, window_s=30, open_for_s=15, half_open_probes=1)
TWO = BreakerPolicy(failures=3, window_s=30, open_for_s=15, half_open_probes=2)


def opened(policy: BreakerPolicy = POLICY, at_s: float = 100.0) -> Breaker:
    breaker = Breaker()
    for _ in range(policy.failures):
        breaker = failed(breaker, policy, at_s)
    assert breaker.state is BreakerState.OPEN
    return breaker


def half_open(policy: BreakerPolicy = POLICY) -> Breaker:
    breaker, admission = admit(opened(policy), policy, 115.0, "p1", 30.0)
    assert isinstance(admission, Go)
    assert breaker.state is BreakerState.HALF_OPEN
    return breaker


def test_a_new_breaker_lets_everybody_pass() -> None:
    assert admit(Breaker(), POLICY, 0.0, "p", 30.0) == (Breaker(), Go())


def test_enough_failures_within_the_window_open_it() -> None:
    breaker = Breaker()
    for at_s in (100.0, 110.0):
        breaker = failed(breaker, POLICY, at_s)
        assert breaker.state is BreakerState.CLOSED
    breaker = failed(breaker, POLICY, 129.9)
    assert (breaker.state, breaker.opened_at_s) == (BreakerState.OPEN, 129.9)
    assert breaker.recent(POLICY, 1000.0) == 3


def test_failures_that_are_too_far_apart_do_not_open_it() -> None:
    breaker = Breaker()
    for at_s in range(0, 1000, 15):
        breaker = failed(breaker, POLICY, float(at_s))
    assert breaker.state is BreakerState.CLOSED
    assert breaker.recent(POLICY, 990.0) == 2
    assert breaker.recent(POLICY, 2000.0) == 0


def test_while_open_nobody_passes_and_everybody_is_told_how_long() -> None:
    for now_s in (100.0, 110.0, 114.5):
        breaker, admission = admit(opened(), POLICY, now_s, "p", 30.0)
        assert breaker == opened()
        assert admission == Wait(115.0 - now_s)


def test_afterwards_the_first_to_ask_is_a_probe_and_the_others_wait() -> None:
    breaker, admission = admit(opened(), POLICY, 115.0, "p1", 30.0)
    assert admission == Go(probe=True, last=True)
    for now_s in (115.0, 120.0, 144.9):
        breaker, admission = admit(breaker, POLICY, now_s, "p2", 30.0)
        assert isinstance(admission, Wait)


def test_so_many_probes_pass_as_the_policy_has() -> None:
    breaker, first = admit(opened(TWO), TWO, 115.0, "p1", 30.0)
    breaker, second = admit(breaker, TWO, 115.0, "p2", 30.0)
    _, third = admit(breaker, TWO, 115.0, "p3", 30.0)
    assert (first, second) == (Go(probe=True), Go(probe=True, last=True))
    assert isinstance(third, Wait)


def test_a_good_probe_closes_it() -> None:
    assert passed(half_open(), POLICY, "p1") == Breaker()


def test_all_probes_must_be_good() -> None:
    breaker, _ = admit(half_open(TWO), TWO, 115.0, "p2", 30.0)
    breaker = passed(breaker, TWO, "p1")
    assert (breaker.state, breaker.passed) == (BreakerState.HALF_OPEN, 1)
    _, admission = admit(breaker, TWO, 116.0, "p3", 30.0)
    assert isinstance(admission, Wait), "two probes have been let through"
    assert passed(breaker, TWO, "p2") == Breaker()


def test_a_bad_probe_opens_it_again_from_now_on() -> None:
    breaker = failed(half_open(), POLICY, 140.0, "p1")
    assert (breaker.state, breaker.opened_at_s, breaker.probes) == (BreakerState.OPEN, 140.0, ())
    assert admit(breaker, POLICY, 141.0, "p", 1.0)[1] == Wait(14.0)


def test_a_probe_that_was_broken_off_or_never_heard_of_makes_room() -> None:
    _, admission = admit(left(half_open(), "p1"), POLICY, 116.0, "p2", 30.0)
    assert isinstance(admission, Go)
    breaker, admission = admit(half_open(), POLICY, 145.0, "p2", 30.0)
    assert isinstance(admission, Go)
    assert breaker.probes == (Probe("p2", 175.0),)


@pytest.mark.parametrize("breaker", [opened(), half_open()])
def test_attempts_that_began_before_say_nothing_any_more(breaker: Breaker) -> None:
    assert failed(breaker, POLICY, 116.0) == breaker
    assert failed(breaker, POLICY, 116.0, "somebody") == breaker
    assert passed(breaker, POLICY, "somebody") == breaker


def answered(status: int) -> Answered:
    return Answered(status, "", [], b"", 0.1)


@pytest.mark.parametrize(
    ("outcome", "against"),
    [
        (answered(200), False), (answered(301), False), (answered(400), False), (answered(404), False),
        (answered(408), False), (answered(429), True), (answered(500), True), (answered(503), True),
        (TimedOut("answer", 1.0), True), (TimedOut("connect", 1.0), True),
        (ConnectFailed("ECONNREFUSED", "", 0.1), True), (CutOff("ECONNRESET", "", 0.1), True),
    ],
)  # fmt: skip
def test_no_answer_429_and_5xx_speak_against_a_target(outcome: Outcome, against: bool) -> None:
    assert speaks_against(outcome) is against


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
def test_never_more_probes_than_places_and_never_anybody_while_open(policy: BreakerPolicy, events: Any) -> None:
    breaker, now_s = Breaker(), 1000.0
    let_through = 0
    for event, probe, step_s in events:
        now_s += step_s
        before = breaker
        match event:
            case "admit":
                breaker, admission = admit(breaker, policy, now_s, probe, 10.0)
                if before.state is BreakerState.CLOSED:
                    assert admission == Go()
                if before.state is BreakerState.OPEN and now_s < (before.opened_at_s or 0) + policy.open_for_s - 1e-6:
                    assert isinstance(admission, Wait)
                    assert admission.for_s > 0
                if isinstance(admission, Go) and admission.probe:
                    let_through += 1
            case "failed":
                breaker = failed(breaker, policy, now_s, probe)
            case "passed":
                breaker = passed(breaker, policy, probe)
            case _:
                breaker = left(breaker, probe)
        assert len(breaker.probes) + breaker.passed <= policy.half_open_probes
        assert len(breaker.failures) <= policy.failures
        assert (breaker.opened_at_s is None) == (breaker.state is BreakerState.CLOSED)
        if breaker.state is not BreakerState.HALF_OPEN:
            assert breaker.probes == ()
            assert breaker.passed == 0


@given(POLICIES, EVENTS)
def test_a_breaker_whose_probes_do_well_always_closes(policy: BreakerPolicy, events: Any) -> None:
    breaker, now_s = opened(policy), 100.0
    for event, probe, step_s in events:
        now_s += step_s
        if event == "admit":
            breaker, _ = admit(breaker, policy, now_s, probe, 10.0)
        elif event == "failed":
            breaker = failed(breaker, policy, now_s, probe)
    now_s += policy.open_for_s + 10.0
    for number in range(policy.half_open_probes):
        if breaker.state is BreakerState.CLOSED:
            break
        breaker, admission = admit(breaker, policy, now_s, f"good{number}", 10.0)
        assert isinstance(admission, Go)
        breaker = passed(breaker, policy, f"good{number}")
    assert breaker.state is BreakerState.CLOSED
