"""When a consumer looks for jobs again by itself, and what keeps it from looking sooner."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GATE_PAUSE_S = 0.01
"""How long a consumer waits before it asks a gate again that has refused."""
_LONGEST_TIMER_S = 3600.0
_LONGEST_LIMIT_S = 30.0


class NextLook:
    """A consumer's only timer; `look` is called when it fires.

    Two things keep a consumer from looking before that, whatever wakes it. `rate_limited`: the rate limit of its queue
    in Redis is used up, and Redis said for how long. `gated`: the consumer's gate, such as this process's load
    shedding, lets no job begin; it is asked again after a moment. Without either the timer is for a delayed job, or for
    another try after an error, and a marker may come first.
    """

    __slots__ = ("_ended", "_look", "_timer", "gated", "job_at_s", "rate_limited")

    def __init__(self, look: Callable[[], None]) -> None:
        self.rate_limited = False
        self.gated = False
        # The wall-clock time of the delayed job that the timer is for; 0 where it is for something else.
        self.job_at_s = 0.0
        self._look = look
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False

    @property
    def blocked(self) -> bool:
        """True while the consumer must not look before the timer fires."""
        return self.rate_limited or self.gated

    def plan(self, in_s: float, job_at_s: float = 0.0) -> None:
        """Look again after this time, unless an earlier look is planned or the consumer is blocked.

        `job_at_s` is the wall-clock time of the delayed job that is looked for; 0 where there is another reason.
        """
        if self.blocked:
            return
        timer = self._timer
        if timer is None or timer.when() > asyncio.get_running_loop().time() + in_s:
            self._set(in_s, job_at_s)

    def block_for_rate_limit(self, for_s: float) -> None:
        """Look again when the rate limit ends. It may be lifted, so it is trusted for half a minute, as by BullMQ."""
        self.rate_limited = True
        self._set(min(for_s, _LONGEST_LIMIT_S), 0.0)

    def lift_rate_limit(self) -> None:
        """Look now where a rate limit keeps the consumer from it: the limit was removed."""
        if self.rate_limited and self._timer is not None:
            self._timer.cancel()
            self._fire()

    def block_for_gate(self) -> None:
        """Ask the gate again after a moment; does not put off the end of a rate limit."""
        if not self.blocked:
            self.gated = True
            self._set(GATE_PAUSE_S, 0.0)

    def end(self) -> bool:
        """Cancel the timer for good; return whether one was running."""
        was_running = self._timer is not None
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return was_running

    def _set(self, in_s: float, job_at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._ended:
            # One millisecond late rather than early: BullMQ promotes a delayed job in the millisecond of its time.
            after_s = min(max(in_s, 0.0) + 0.001, _LONGEST_TIMER_S)
            self.job_at_s = job_at_s
            self._timer = asyncio.get_running_loop().call_later(after_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.rate_limited = self.gated = False
        self._look()
