"""A target's circuit breaker and its hold, as a table and pure functions: when no requests are made to a target.

    state      event                                                        becomes
    closed     a failure that is the `failures`-th in a row                 open
    closed     a failure, with `failure_rate` of at least `min_attempts`
               attempts in `window_s` having failed                         open
    open       an attempt asks, `open_for_s` after it opened                half-open, with it as the first probe
    half-open  a probe failed                                               open
    half-open  the `half_open_probes`-th probe passed                       closed
    half-open  a probe was aborted, or had no outcome in time               half-open, with its place free

Nothing else changes a state: outcomes of attempts that are not probes count only while it is closed. Where an attempt
has succeeded in the window, only the first of one delivery's failures in a row counts: it must not shut out the others.

A hold is independent of the state: a target that answered 429 or 503 with `Retry-After` gets nothing until then.

The breakers in Redis mirror these functions in a script, and `tests/conformance/test_breakers.py` takes both through
thousands of histories.
"""

from __future__ import annotations

import enum

from msgspec import Struct
from msgspec.structs import replace

from toril.delivery.rules.target import BreakerPolicy

HALF_OPEN_PAUSE_S = 1.0
"""How long an attempt that finds no free place for a probe waits before it asks again."""

SLICES = 10
"""The window of the rate consists of so many slices, the oldest of which is dropped as a whole."""


class BreakerState(enum.StrEnum):
    """The state of a breaker: which requests are made."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Probe(Struct, frozen=True):
    """An attempt that tests whether the target has recovered; its place is free after `until_s`."""

    id: str
    until_s: float


class Slice(Struct, frozen=True):
    """The attempts that ended in one slice of time, and how many of them failed."""

    number: int
    attempts: int
    failures: int


class Breaker(Struct, frozen=True):
    """The state of a breaker.

    While it is closed, `row` has the times of the failures since the last success, `slices` the attempts of the window,
    and `last_failed` the delivery that failed last. Otherwise `failures` is how many opened it.
    """

    state: BreakerState = BreakerState.CLOSED
    opened_at_s: float | None = None
    row: tuple[float, ...] = ()
    slices: tuple[Slice, ...] = ()
    last_failed: str = ""
    failures: int = 0
    probes: tuple[Probe, ...] = ()
    passed: int = 0
    held_until_s: float | None = None

    @property
    def counted(self) -> int:
        """How many failures count: those in a row, or those that opened it."""
        return len(self.row) if self.state is BreakerState.CLOSED else self.failures


class Successes(Struct, frozen=True):
    """Attempts that succeeded and were not reported yet, and how long ago the last one ended."""

    count: int = 0
    age_s: float = 0.0


NO_SUCCESSES = Successes()


class FailedAttempt(Struct, frozen=True):
    """An attempt that failed: of which delivery, as which probe if it was one, and for how long it holds the target."""

    delivery: str
    probe: str | None = None
    hold_s: float = 0.0


class AttemptAllowed(Struct, frozen=True):
    """The attempt may be made. The outcome of a `probe` must be reported; `last` means that it took the last place.

    `row` is how many failures the breaker has counted in a row.
    """

    probe: bool = False
    last: bool = False
    row: int = 0


class AttemptBlocked(Struct, frozen=True):
    """No attempt may be made for `for_s`."""

    for_s: float


BreakerDecision = AttemptAllowed | AttemptBlocked


def admit(
    breaker: Breaker, policy: BreakerPolicy | None, now_s: float, probe_id: str, probe_for_s: float
) -> tuple[Breaker, BreakerDecision]:
    """Decide whether an attempt may be made now; without a policy only a hold keeps it from being made.

    The place of a probe is free again after `probe_for_s`. A probe that asks again keeps its place, for so long from
    now, if it still has it.
    """
    if breaker.held_until_s is not None and breaker.held_until_s > now_s:
        return breaker, AttemptBlocked(breaker.held_until_s - now_s)
    if policy is None or breaker.state is BreakerState.CLOSED:
        return breaker, AttemptAllowed(row=len(breaker.row))
    if breaker.state is BreakerState.OPEN:
        opened_at_s = breaker.opened_at_s if breaker.opened_at_s is not None else now_s
        left_s = opened_at_s + policy.open_for_s - now_s
        if left_s > 0:
            return breaker, AttemptBlocked(left_s)
        breaker = replace(breaker, state=BreakerState.HALF_OPEN, probes=(), passed=0)
    others = tuple(probe for probe in breaker.probes if probe.until_s > now_s and probe.id != probe_id)
    has_place = any(probe.id == probe_id and probe.until_s > now_s for probe in breaker.probes)
    free = policy.half_open_probes - breaker.passed - len(others)
    if free <= 0 and not has_place:
        return replace(breaker, probes=others), AttemptBlocked(HALF_OPEN_PAUSE_S)
    probes = (*others, Probe(probe_id, now_s + probe_for_s))
    return replace(breaker, probes=probes), AttemptAllowed(probe=True, last=free <= 1)


def succeeded(breaker: Breaker, policy: BreakerPolicy | None, now_s: float, successes: Successes) -> Breaker:
    """Return the breaker after attempts that are no probes succeeded: failures before the last of them are no row.

    Without a policy nothing is counted.
    """
    if policy is None or breaker.state is not BreakerState.CLOSED or not successes.count:
        return breaker
    row = tuple(at_s for at_s in breaker.row if at_s > now_s - successes.age_s)
    return replace(breaker, row=row, slices=_counted(breaker, policy, now_s, successes.count, 0))


def failed(breaker: Breaker, policy: BreakerPolicy | None, now_s: float, failure: FailedAttempt) -> Breaker:
    """Return the breaker after an attempt that failed; without a policy only a hold is kept."""
    breaker = held(breaker, now_s, failure.hold_s)
    if policy is None:
        return breaker
    if breaker.state is BreakerState.HALF_OPEN and _has(breaker, failure.probe):
        return replace(breaker, state=BreakerState.OPEN, opened_at_s=now_s, probes=(), passed=0)
    if breaker.state is not BreakerState.CLOSED or _is_one_delivery(breaker, policy, now_s, failure.delivery):
        return breaker
    row = (*breaker.row, now_s)
    slices = _counted(breaker, policy, now_s, 1, 1)
    attempts, failures = sum(one.attempts for one in slices), sum(one.failures for one in slices)
    if len(row) >= policy.failures:
        failures = policy.failures
    elif attempts < policy.min_attempts or failures < policy.failure_rate * attempts:
        return replace(breaker, row=row, slices=slices, last_failed=failure.delivery)
    return Breaker(BreakerState.OPEN, now_s, failures=failures, held_until_s=breaker.held_until_s)


def held(breaker: Breaker, now_s: float, for_s: float) -> Breaker:
    """Return the breaker with a hold; the one that ends last counts."""
    if for_s <= 0 or (breaker.held_until_s is not None and breaker.held_until_s >= now_s + for_s):
        return breaker
    return replace(breaker, held_until_s=now_s + for_s)


def passed(breaker: Breaker, policy: BreakerPolicy, probe_id: str) -> Breaker:
    """Return the breaker after a probe that succeeded."""
    if breaker.state is not BreakerState.HALF_OPEN or not _has(breaker, probe_id):
        return breaker
    if breaker.passed + 1 >= policy.half_open_probes:
        return Breaker(held_until_s=breaker.held_until_s)
    return replace(left(breaker, probe_id), passed=breaker.passed + 1)


def left(breaker: Breaker, probe_id: str) -> Breaker:
    """Return the breaker after a probe that was aborted, and so had no outcome."""
    return replace(breaker, probes=tuple(probe for probe in breaker.probes if probe.id != probe_id))


def _is_one_delivery(breaker: Breaker, policy: BreakerPolicy, now_s: float, delivery: str) -> bool:
    """Return True if the delivery that failed last fails again, and the target takes others."""
    window = _counted(breaker, policy, now_s, 0, 0)
    return delivery == breaker.last_failed and any(one.attempts > one.failures for one in window)


def _has(breaker: Breaker, probe_id: str | None) -> bool:
    return any(probe.id == probe_id for probe in breaker.probes)


def _counted(breaker: Breaker, policy: BreakerPolicy, now_s: float, attempts: int, failures: int) -> tuple[Slice, ...]:
    """Return the slices of the window with these attempts among them."""
    # Whole microseconds, as in Redis, so that both cut time at the same places.
    number = round(now_s * 1e6) // max(1, round(policy.window_s * 1e6) // SLICES)
    kept = {one.number: one for one in breaker.slices if number - SLICES < one.number <= number}
    before = kept.get(number, Slice(number, 0, 0))
    kept[number] = Slice(number, before.attempts + attempts, before.failures + failures)
    return tuple(kept.values())
