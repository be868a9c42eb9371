"""Judges jobs that pull workers lease: by their leases alone, as no fault excuses that a lease ends early.

A lease is kept by Redis, whatever happens to the torils. Only a failover may lose one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from benchmarks.histories.case import Arrival, Case, Held
from benchmarks.histories.harms import LEASING_S, Harms
from benchmarks.histories.plan import COMPLETING, Reply

_DONE = COMPLETING | {Reply.DONE_AND_VANISHED}
_FREEING = frozenset({Reply.ERROR, Reply.RELEASED})
_PLANNED = {Reply.DONE_AND_VANISHED: "pull worker vanished", Reply.LATE: "pull worker was late"}
_CLOCK_S = 0.02
"""How far Redis' clock and ours may be apart while a lease lasts."""


def may_complete(one: Arrival) -> bool:
    """Return True if what a pull worker has said may have completed the job."""
    held = one.held
    return held is not None and one.reply in COMPLETING and (held.accepted or held.status is None)


def done(case: Case) -> dict[str | None, list[Arrival]]:
    """Return for each job how often pull workers have done it, whether that is recorded or not."""
    found: dict[str | None, list[Arrival]] = {}
    for one in case.arrivals:
        if one.reply in _DONE:
            found.setdefault(one.job_id, []).append(one)
    return found


def cause(one: Arrival, harms: Harms) -> tuple[bool, str]:
    """Return why a job was done again although a worker had done it, and whether that was this worker's doing."""
    if one.reply in _PLANNED:
        return True, _PLANNED[one.reply]
    until = one.at if one.held is None else one.held.until
    return False, " and ".join(sorted({harm.fault.value for harm in harms.during(one.at - LEASING_S, until)}))


def wrong(case: Case, failovers: Harms) -> Iterator[tuple[str, str]]:
    """Yield what breaks a promise: two workers have one job, a lost lease is settled, or a completed job comes."""
    leases: dict[str | None, list[tuple[Arrival, Held]]] = {}
    for one in case.arrivals:
        if one.held is None:
            yield "illegal", f"arrival {one.serial} was pushed, and its worker is paused"
        else:
            leases.setdefault(one.job_id, []).append((one, one.held))
            if one.held.accepted and one.held.again is not None and 200 <= one.held.again < 300:
                yield "illegal", f"arrival {one.serial} was settled twice"
    for held in leases.values():
        if sum(lease.accepted and one.reply in COMPLETING for one, lease in held) > 1:
            yield "doubled", f"several pull workers have completed {held[0][0].job_id}"
        for first, second in combinations(held, 2):
            came, came_too = first[0].at, second[0].at
            if failovers.during(min(came, came_too) - LEASING_S, max(came, came_too)):
                continue
            yield from _of_two(*first, *second)
            yield from _of_two(*second, *first)
            if not (_ended_before(*first, came_too) or _ended_before(*second, came)):
                yield "doubled", f"arrivals {first[0].serial} and {second[0].serial} had leases at the same time"


def _of_two(one: Arrival, lease: Held, other: Arrival, later: Held) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a lease and a later one of the same job."""
    if lease.asked_at is None or not lease.accepted:
        return
    if one.reply in COMPLETING and one.ended is not None and later.asked_from > one.ended:
        yield "doubled", f"arrival {other.serial} came although arrival {one.serial} was completed"
    if later.asked_from > one.at and other.at < lease.asked_at:
        yield "illegal", f"the settlement of arrival {one.serial} was accepted, and arrival {other.serial} had the job"


def _ended_before(one: Arrival, lease: Held, at: float) -> bool:
    """Return True if a lease may have ended by a time: it was over, or the job was given back."""
    freed = lease.asked_at if one.reply in _FREEING and lease.asked_at is not None else lease.until
    return at >= min(freed, lease.until) - _CLOCK_S
