"""Load shedding: a process without time for both accepts requests first and begins fewer jobs.

An event loop serves fairly: where clients send as fast as they are answered, it does one job for each request it
accepts, and accepts half of what it could. An accepted request is stored, so its job can be done later. When the loop
has no time left and requests come in, only some jobs are begun for the requests that were accepted; when it has time
again, all are.

Consumers ask before each lease, and accepted requests are counted here. It must never stop the work altogether.
"""

from __future__ import annotations

from collections.abc import Callable

ACCEPTED_PER_JOB = 6
"""Measured (`benchmarks.proxy`): with 6, the rate of accepted requests grows from 0.4 to 0.8 of accepting alone."""
LEAST_PER_S = 200.0
"""This many jobs a second are begun in any case, so that a few large requests do not starve them."""
_BUSY = 0.8
_JUDGED_EVERY_S = 0.02
_MEMORY_S = 0.1


class LoadShedding:
    """Decides whether another job may begin now. It measures only when it is asked, so an idle process pays nothing.

    Args:
        busy_s: for how many seconds this thread has had something to do since it began.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, busy_s: Callable[[], float], now: Callable[[], float]) -> None:
        self._busy_s = busy_s
        self._now = now
        self._judged_at_s = now()
        self._was_busy_s = busy_s()
        self._busy = 0.0
        self._accepted = 0
        # How many jobs may begin until the next judgement; None while nothing is shed.
        self._left: float | None = None

    def accepted(self) -> None:
        """Count a request that was accepted."""
        self._accepted += 1

    def may_begin(self) -> bool:
        """Return True if a job may begin now; it then counts as begun."""
        now_s = self._now()
        if now_s - self._judged_at_s >= _JUDGED_EVERY_S:
            self._judge(now_s)
        if self._left is None:
            return True
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _judge(self, now_s: float) -> None:
        passed_s, self._judged_at_s = now_s - self._judged_at_s, now_s
        before_s, self._was_busy_s = self._was_busy_s, self._busy_s()
        accepted, self._accepted = self._accepted, 0
        share = (self._was_busy_s - before_s) / passed_s
        self._busy += (share - self._busy) * min(1.0, passed_s / _MEMORY_S)
        if self._busy < _BUSY or not accepted:
            self._left = None
            return
        per_s = max(accepted / passed_s / ACCEPTED_PER_JOB, LEAST_PER_S)
        # Only the fraction of a job is carried over: jobs that could have begun and did not are not saved up.
        self._left = per_s * min(passed_s, 2 * _JUDGED_EVERY_S) + (self._left or 0.0) % 1.0
