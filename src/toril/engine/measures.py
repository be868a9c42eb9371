"""What the engine measures: waits, attempts, ends, leases that got lost. One place that knows which labels those have.

Called by the executor, the settler, the recoverer and `pulls`; passes on to a meter.
"""

from __future__ import annotations

from time import time
from typing import get_args

from toril.core.lease import Lease
from toril.core.metrics import (
    ATTEMPT_SECONDS,
    ATTEMPTS,
    JOB_SECONDS,
    JOBS_STALLED,
    LEASES_LOST,
    UNMETERED,
    WAIT_SECONDS,
    word,
)
from toril.core.outcome import Answered, Outcome, Replied
from toril.core.ports.shared import Meter, Now
from toril.core.stored_job import added_ms, due_ms
from toril.core.verdict import Complete, DeadLetter, Fail, HandOver, Verdict

Labels = tuple[str, str]

# Looked up and not made anew for each attempt.
_VERDICTS = {kind: word(kind) for kind in get_args(Verdict)}
_OUTCOMES = {kind: word(kind) for kind in get_args(Outcome)}


class Measures:
    """Measures the jobs of one process. `labels` are the kind of a destination and its queue."""

    __slots__ = ("_meter", "_now")

    def __init__(self, meter: Meter = UNMETERED, now: Now = time) -> None:
        self._meter = meter
        self._now = now

    def began(self, labels: Labels, lease: Lease) -> None:
        """An attempt begins. How long a job waited is only known of its first one."""
        if not lease.attempts_made:
            self._meter.observe(WAIT_SECONDS, labels, max(0.0, self._now() - due_ms(lease.fields) / 1000))

    def attempted(self, labels: Labels, outcome: Outcome, verdict: Verdict) -> None:
        """An attempt was made, and judged. One that goes on is measured when it is settled, by `reported`."""
        if isinstance(verdict, HandOver):
            return
        self._meter.observe(ATTEMPT_SECONDS, labels, outcome.duration_s)
        self._meter.count(ATTEMPTS, (*labels, _came(outcome), _VERDICTS[type(verdict)]))

    def reported(self, labels: Labels, lease: Lease, came: str, verdict: str) -> None:
        """Who works on a job by its lock token says what came of it. It began when BullMQ says so."""
        begun = lease.fields.get(b"processedOn", b"")
        if begun.isdigit():
            self._meter.observe(ATTEMPT_SECONDS, labels, max(0.0, self._now() - int(begun) / 1000))
        self._meter.count(ATTEMPTS, (*labels, came, verdict))

    def settled(self, lease: Lease, verdict: Verdict) -> None:
        """A verdict was written."""
        if isinstance(verdict, Complete | Fail | DeadLetter):
            took_s = max(0.0, self._now() - added_ms(lease.fields) / 1000)
            self._meter.observe(JOB_SECONDS, (lease.queue, _VERDICTS[type(verdict)]), took_s)

    def lost(self, queue: str) -> None:
        """A job in flight is not ours any more."""
        self._meter.count(LEASES_LOST, (queue,))

    def stalled(self, queue: str) -> None:
        """A job whose worker was gone is back."""
        self._meter.count(JOBS_STALLED, (queue,))


UNMEASURED = Measures()


def _came(outcome: Outcome) -> str:
    """What came of an attempt, in a word: the class of the status where there is one."""
    match outcome:
        case Answered():
            return f"{outcome.status // 100}xx"
        case Replied():
            return "result" if outcome.error is None else "error"
        case _:
            return _OUTCOMES[type(outcome)]
