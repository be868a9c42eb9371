"""A target's circuit breaker, as a table and pure functions: when nothing is sent because nothing would come of it.

    state      event                                               becomes
    closed     a failure, the `failures`-th within `window_s`      open
    open       asked, `open_for_s` after it opened                 half-open, with the one who asked as its first probe
    half-open  a probe failed                                      open
    half-open  the `half_open_probes`-th probe passed              closed
    half-open  a probe left, or was not heard of in time           half-open, with its place free

Nothing else changes a state: what attempts that began before come to counts only while it is closed. Every store of
breakers asks or mirrors these functions (`tests/conformance/test_breakers.py` compares them).
"""

from __future__ import annotations

import enum

from msgspec import Struct
from msgspec.structs import replace

from toril.core.outcome import BODY_UNREADABLE, Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut
from toril.core.target import BreakerPolicy

HALF_OPEN_PAUSE_S = 1.0
"""How long who finds no place among the probes waits before asking again."""


class BreakerState(enum.StrEnum):
    """Whether requests are made."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Probe(Struct, frozen=True):
    """An attempt that finds out; `until_s` is when it counts as gone."""

    id: str
    until_s: float


class Breaker(Struct, frozen=True):
    """What is known: the times of recent failures, and of the probes who is under way and how many have passed."""

    state: BreakerState = BreakerState.CLOSED
    opened_at_s: float | None = None
    failures: tuple[float, ...] = ()
    probes: tuple[Probe, ...] = ()
    passed: int = 0

    def recent(self, policy: BreakerPolicy, now_s: float) -> int:
        """How many failures count: those in the window, or those that opened it."""
        if self.state is not BreakerState.CLOSED:
            return len(self.failures)
        return sum(at_s > now_s - policy.window_s for at_s in self.failures)


class Go(Struct, frozen=True):
    """Make the attempt. `probe`: what comes of it must be told, and `last` says that no more places are left."""

    probe: bool = False
    last: bool = False


class Wait(Struct, frozen=True):
    """Make no attempt for so long."""

    for_s: float


Admission = Go | Wait


def admit(
    breaker: Breaker, policy: BreakerPolicy, now_s: float, probe_id: str, probe_for_s: float
) -> tuple[Breaker, Admission]:
    """Whether an attempt may be made now; as a probe it counts as gone after `probe_for_s`."""
    match breaker.state:
        case BreakerState.CLOSED:
            return breaker, Go()
        case BreakerState.OPEN:
            opened_at_s = breaker.opened_at_s if breaker.opened_at_s is not None else now_s
            left_s = opened_at_s + policy.open_for_s - now_s
            if left_s > 0:
                return breaker, Wait(left_s)
            breaker = replace(breaker, state=BreakerState.HALF_OPEN, probes=(), passed=0)
        case BreakerState.HALF_OPEN:
            alive = tuple(probe for probe in breaker.probes if probe.until_s > now_s)
            breaker = replace(breaker, probes=alive)
    free = policy.half_open_probes - breaker.passed - len(breaker.probes)
    if free <= 0:
        return breaker, Wait(HALF_OPEN_PAUSE_S)
    probes = (*breaker.probes, Probe(probe_id, now_s + probe_for_s))
    return replace(breaker, probes=probes), Go(probe=True, last=free == 1)


def failed(breaker: Breaker, policy: BreakerPolicy, now_s: float, probe_id: str | None = None) -> Breaker:
    """The breaker after an attempt that speaks against the target."""
    if breaker.state is BreakerState.CLOSED:
        recent = (*(at_s for at_s in breaker.failures if at_s > now_s - policy.window_s), now_s)
        if len(recent) < policy.failures:
            return Breaker(failures=recent)
        return Breaker(BreakerState.OPEN, now_s, recent[-policy.failures :])
    if breaker.state is BreakerState.HALF_OPEN and _has(breaker, probe_id):
        return Breaker(BreakerState.OPEN, now_s, breaker.failures)
    return breaker


def passed(breaker: Breaker, policy: BreakerPolicy, probe_id: str) -> Breaker:
    """The breaker after a probe that speaks for the target."""
    if breaker.state is not BreakerState.HALF_OPEN or not _has(breaker, probe_id):
        return breaker
    if breaker.passed + 1 >= policy.half_open_probes:
        return Breaker()
    return replace(left(breaker, probe_id), passed=breaker.passed + 1)


def left(breaker: Breaker, probe_id: str) -> Breaker:
    """The breaker after a probe that says nothing: it was broken off."""
    return replace(breaker, probes=tuple(probe for probe in breaker.probes if probe.id != probe_id))


def _has(breaker: Breaker, probe_id: str | None) -> bool:
    return any(probe.id == probe_id for probe in breaker.probes)


def speaks_against(outcome: Outcome) -> bool:
    """Whether what happened says that the target is unwell: no answer, 429, or 5xx."""
    match outcome:
        case Answered(status=status):
            return status == 429 or status >= 500
        case CutOff(code=code):
            return code != BODY_UNREADABLE  # that was our own fault
        case ConnectFailed(exhausted=exhausted):
            return not exhausted
        case TimedOut() | Replied():
            return True
