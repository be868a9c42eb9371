"""What the faults of a run can have done to an attempt: which excuse that a job is begun again, and which make it sure.

A fault excuses only what it can have caused by the promises: an attempt that was under way is made once more when its
toril is killed, and when it stands still or Redis is away for longer than half a lock, after which locks are renewed.
PostgreSQL excuses nothing: jobs are held meanwhile.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

from benchmarks.histories.case import Arrival, Harm
from benchmarks.histories.plan import FAILOVERS, Fault

LEASING_S = 1.0
"""How long before its arrival a request may have been decided on."""
_PAUSE_S = 2.0
"""Outages of Redis with less than this between them are one: toril may not have come back."""
_KILLS = frozenset({Fault.KILL_TORIL, Fault.KILL_PROCESS})
_FREEZES = frozenset({Fault.FREEZE_TORIL, Fault.FREEZE_PROCESS})
_AT_ONCE = FAILOVERS | _KILLS | {Fault.FLUSH_REDIS}
_AWAY = frozenset(
    {Fault.STALL, Fault.KILL_REDIS, Fault.FREEZE_REDIS, Fault.CUT_REDIS, Fault.PART_REDIS, Fault.FULL_REDIS}
)
_OF_ONE = _KILLS | _FREEZES | {Fault.PART_REDIS}
"""Faults that keep one toril from recording what only it knows, while the other one goes on."""


class Harms:
    """Faults that are found by time."""

    def __init__(self, harms: Iterable[Harm]) -> None:
        self._harms = sorted(harms, key=lambda harm: harm.began)
        self._begins = [harm.began for harm in self._harms]
        self._longest_s = max((harm.ended - harm.began for harm in self._harms), default=0.0)

    def during(self, began: float, ended: float, more_s: float = 0.0) -> list[Harm]:
        """Return the faults that overlap a time; each counts for so much longer."""
        first = bisect_left(self._begins, began - more_s - self._longest_s)
        last = bisect_right(self._begins, ended)
        return [harm for harm in self._harms[first:last] if harm.ended + more_s >= began]


def excusing(harms: Iterable[Harm], least_s: float) -> Iterator[Harm]:
    """Yield the faults that can have an attempt made once more."""
    away: list[Harm] = []
    for harm in sorted(harms, key=lambda harm: harm.began):
        long = harm.ended - harm.began >= least_s
        if harm.fault in _AT_ONCE or (harm.fault in _FREEZES and long):
            yield harm
        elif harm.fault in _AWAY:
            if away and harm.began > max(one.ended for one in away) + _PAUSE_S:
                away.clear()
            away.append(harm)
            if max(one.ended for one in away) - away[0].began >= least_s:
                yield Harm(harm.fault, harm.member, away[0].began, max(one.ended for one in away))


def silencing(harms: Iterable[Harm], least_s: float) -> Iterator[Harm]:
    """Yield the faults that kept one toril from recording what only it knew, for long enough to be taken for dead."""
    for harm in harms:
        if harm.fault in _KILLS or (harm.fault in _OF_ONE and harm.ended - harm.began >= least_s):
            yield harm


def silenced(done: Arrival, settled_by: float, silences: Harms) -> bool:
    """Return True if the toril of an attempt was killed or cut off between the endpoint's answer and its record.

    The endpoint has done the job then, and no system that delivers at least once can avoid that it is done again.
    `settled_by` is when the attempt was recorded at the latest, if nothing kept its toril from it. It is False where it
    is not known which toril made the attempt.
    """
    # A request that comes while its toril is killed was sent right before; a new one makes its own only later.
    return any(
        harm.member == done.member and (harm.fault not in _KILLS or harm.began >= done.at - LEASING_S)
        for harm in silences.during(done.ended or done.at, settled_by)
    )
