"""Lets accepting go before working, in a process that has no time left for both.

An event loop serves fairly: where clients send as fast as they are answered, each accepted request has another job done
beside it, and half of what could be accepted is turned away by waiting. What is accepted is safe and can be worked off
later. So where the loop has no time left and requests come in, only some jobs are begun for those that are accepted;
as soon as it has time again, nothing is held back.

Consumers ask before they lease; whoever accepts says so. Must never stop the work altogether.
"""

from __future__ import annotations

from collections.abc import Callable

PAUSE_S = 0.01
"""For how long a consumer that is refused does not ask again."""
ACCEPTED_PER_JOB = 6
"""Measured (`benchmarks.proxy`): with 6, what is accepted grows from 0.4 to 0.8 of accepting alone."""
LEAST_PER_S = 200.0
"""So many jobs are begun in any case, so that few large requests do not starve them."""
_BUSY = 0.8
_JUDGED_EVERY_S = 0.02
_MEMORY_S = 0.1


class AcceptFirst:
    """Decides whether another job may be begun now. Costs an idle process nothing: it only looks when it is asked.

    Args:
        busy_s: for how many seconds this thread has had something to do, ever since it began.
        now: seconds of a clock that never goes back.
    """

    def __init__(self, busy_s: Callable[[], float], now: Callable[[], float]) -> None:
        self._busy_s = busy_s
        self._now = now
        self._judged_at_s = now()
        self._was_busy_s = busy_s()
        self._busy = 0.0
        self._accepted = 0
        # None: as many as there are.
        self._left: float | None = None

    def accepted(self) -> None:
        """A request was accepted."""
        self._accepted += 1

    def may_lease(self) -> bool:
        """Whether a job may be begun; who is told yes is taken to begin one."""
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
        # What nobody began in the time before is not saved up, but for the fraction of a job.
        self._left = per_s * min(passed_s, 2 * _JUDGED_EVERY_S) + (self._left or 0.0) % 1.0
