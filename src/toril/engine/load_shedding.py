"""Load shedding: processes without time for both accept requests first and begin fewer jobs.

An event loop serves fairly: where clients send as fast as they are answered, it does one job for each request it
accepts, and accepts half of what it could. An accepted request is stored, so its job can be done later. When the loop
has no time left and requests come in, only some jobs are begun for the requests that were accepted; when it has time
again, all are.

Where less than half a core of the machine is idle, a job that one process does takes time from all: from Redis, if it
is on this machine, and from the other processes of the instance. There a process has no time left when it is busy for
two fifths of its time (for the rest it waits for Redis, which waits for a core), and all processes give way while one
is flooded.

Consumers ask before each lease, and accepted requests are counted here. It must never stop the work altogether.
"""

from __future__ import annotations

from collections.abc import Callable

from toril.engine.load_board import LoadBoard

ACCEPTED_PER_JOB = 12
"""Measured (`benchmarks.proxy`): with 6, the rate of accepted requests grows from 0.4 to 0.8 of accepting alone.

With 12 it is 1.2 times that, and two thirds as many jobs are done meanwhile; with 20 it is no greater.
"""
LEAST_PER_S = 200.0
"""This many jobs a second are begun in any case, so that a few large requests do not starve them."""
_BUSY = 0.8
_BUSY_ON_FULL_MACHINE = 0.4
_IDLE_CORES_ON_FULL_MACHINE = 0.5
"""Measured: under a flood, two processes, Redis and the load leave 0.2 to 0.4 of two cores idle, as they wait for each
other (`benchmarks/README.md`).
"""
_LEAST_IDLE, _MOST_IDLE = 0.1, 0.25
"""Between which shares of all cores that is: on one core a quarter, from five cores on a tenth."""
_IDLE_AGAIN = 1.5
"""So much more has to be idle before a full machine counts as one with time to spare."""
_JUDGED_EVERY_S = 0.02
_MEMORY_S = 0.1
_IDLE_MEMORY_S = 0.3
"""Longer, since the system counts in ticks: in a tenth of a second, two cores have twenty.

Measured: a flood leaves 0.18 of them idle in the mean, but 0.26 to 0.36 in every tenth look.
"""


class LoadShedding:
    """Decides whether another job may begin now. It measures only when it is used, so an idle process pays nothing.

    Args:
        busy_s: for how many seconds this thread has had something to do since it began.
        idle_s: for how many seconds a core of this machine has had nothing to do, in the mean of its cores.
        cores: how many cores the machine has.
        now: seconds of a clock that never goes back, the same for all processes of the machine.
        board: what the processes of the instance tell each other; None if there is only one.
    """

    def __init__(
        self,
        busy_s: Callable[[], float],
        idle_s: Callable[[], float],
        cores: int,
        now: Callable[[], float],
        board: LoadBoard | None = None,
    ) -> None:
        self._busy_s = busy_s
        self._now = now
        self._board = board
        self._machine = _Machine(idle_s, cores, now())
        self._judged_at_s = now()
        self._was_busy_s = busy_s()
        self._busy = 0.0
        self._accepted = 0
        self._accepted_by_all = 0.0 if board is None else board.accepted()
        # How many jobs may begin until the next judgement; None while nothing is shed.
        self._left: float | None = None

    def accepted(self) -> None:
        """Count a request that was accepted."""
        self._accepted += 1
        if self._board is not None:
            # The other processes have to know, also while this one has no job to begin.
            self._judge_in_time()

    def may_begin(self) -> bool:
        """Return True if a job may begin now; it then counts as begun."""
        self._judge_in_time()
        if self._left is None:
            return True
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _judge_in_time(self) -> None:
        now_s = self._now()
        if now_s - self._judged_at_s >= _JUDGED_EVERY_S:
            self._judge(now_s)

    def _judge(self, now_s: float) -> None:
        passed_s, self._judged_at_s = now_s - self._judged_at_s, now_s
        before_s, self._was_busy_s = self._was_busy_s, self._busy_s()
        accepted, self._accepted = self._accepted, 0
        share = (self._was_busy_s - before_s) / passed_s
        self._busy = _mean(self._busy, share, passed_s / _MEMORY_S)
        full = self._machine.full(now_s)
        flooded = accepted > 0 and self._busy >= (_BUSY_ON_FULL_MACHINE if full else _BUSY)
        mine = float(accepted)
        if self._board is not None:
            flooded, mine = self._together(self._board, now_s, accepted, flooded, full)
        if not flooded:
            self._left = None
            return
        per_s = max(mine / passed_s / ACCEPTED_PER_JOB, LEAST_PER_S)
        # Only the fraction of a job is carried over: jobs that could have begun and did not are not saved up.
        self._left = per_s * min(passed_s, 2 * _JUDGED_EVERY_S) + (self._left or 0.0) % 1.0

    def _together(self, board: LoadBoard, now_s: float, accepted: int, flooded: bool, full: bool) -> tuple[bool, float]:
        """Tell the other processes, and return whether this one has to give way, and to how many requests."""
        board.tell(accepted)
        if flooded:
            board.tell_flooded(now_s)
        before, self._accepted_by_all = self._accepted_by_all, board.accepted()
        if not full:
            return flooded, accepted
        return board.flooded_since(now_s - _MEMORY_S), (self._accepted_by_all - before) / board.processes


class _Machine:
    """Whether the cores of this machine have time left. It reads the system's figures ten times a second at most."""

    def __init__(self, idle_s: Callable[[], float], cores: int, now_s: float) -> None:
        self._idle_s = idle_s
        self._least_idle = min(max(_IDLE_CORES_ON_FULL_MACHINE / cores, _LEAST_IDLE), _MOST_IDLE)
        self._looked_at_s = now_s
        self._was_idle_s = idle_s()
        self._idle = 1.0
        self._full = False

    def full(self, now_s: float) -> bool:
        """Return True if hardly a core had time to spare of late."""
        passed_s = now_s - self._looked_at_s
        if passed_s >= _MEMORY_S:
            before_s, self._was_idle_s = self._was_idle_s, self._idle_s()
            self._looked_at_s = now_s
            share = (self._was_idle_s - before_s) / passed_s
            # Less counts at once, so that a flood is known as it begins.
            self._idle = min(share, _mean(self._idle, share, passed_s / _IDLE_MEMORY_S))
            self._full = self._idle < self._least_idle * (_IDLE_AGAIN if self._full else 1.0)
        return self._full


def _mean(before: float, newest: float, weight: float) -> float:
    """Return a mean that goes with what is newest; `weight` is how much of its memory that covers."""
    return before + (newest - before) * min(1.0, weight)
