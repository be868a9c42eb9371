"""The engine's measurements: waits, attempts, ends of jobs, lost leases. It owns which labels they have."""

from __future__ import annotations

from time import time
from typing import get_args

from toril.core.lease import Lease
from toril.core.metrics import (
    ATTEMPT_SECONDS,
    ATTEMPTS,
    DEAD_LETTERS,
    JOB_SECONDS,
    JOBS_STALLED,
    LEASES_LOST,
    UNMETERED,
    WAIT_SECONDS,
    word,
)
from toril.core.outcome import Answered, Outcome, Replied
from toril.core.ports import Meter, Now
from toril.core.stored_job import added_ms, due_ms
from toril.core.verdict import GONE, Complete, DeadLetter, Fail, HandOver, Retry, Settlement, Snooze, Verdict
from toril.telemetry.failures import STALLED, Failures

Labels = tuple[str, str]

# Looked up, because making them for each attempt costs more.
_VERDICTS = {kind: word(kind) for kind in get_args(Verdict)}
_CLASSES = tuple(f"{first}xx" for first in range(10))
_OUTCOMES = {kind: word(kind) for kind in get_args(Outcome)}


class Measures:
    """Measures the jobs of one process. `labels` are the kind of the destination and its queue.

    `failures` notes why attempts fail, once it is set.
    """

    __slots__ = ("_meter", "failures", "now")

    def __init__(self, meter: Meter = UNMETERED, now: Now = time) -> None:
        self._meter = meter
        self.now = now
        self.failures: Failures | None = None

    def began(self, labels: Labels, lease: Lease) -> None:
        """Measure how long a job waited, when its first attempt begins."""
        if not lease.attempts_made:
            waited_s = max(0.0, self.now() - due_ms(lease.fields) / 1000)
            self._meter.observe(WAIT_SECONDS, labels, waited_s, lease.trace)

    def attempted(self, labels: Labels, lease: Lease, outcome: Outcome, verdict: Verdict) -> None:
        """Measure an attempt after its verdict. If its job is settled later, `reported` measures it then."""
        if isinstance(verdict, HandOver):
            return
        self._meter.observe(ATTEMPT_SECONDS, labels, outcome.duration_s, lease.trace)
        self._meter.count(ATTEMPTS, (*labels, _outcome_label(outcome), _VERDICTS[type(verdict)]))
        if not isinstance(verdict, Complete):
            self.failed(labels[1], verdict)

    def failed(self, queue: str, verdict: Settlement) -> None:
        """Count the reason of an attempt that has failed."""
        if self.failures is not None:
            match verdict:
                case Retry() | Fail():
                    self.failures.note(queue, verdict.reason)
                case DeadLetter():
                    self.failures.note(queue, verdict.error or verdict.reason)
                case Complete() | Snooze():
                    pass

    def reported(self, labels: Labels, lease: Lease, outcome: str, verdict: str) -> None:
        """Measure an attempt that was settled by lock token. It began at BullMQ's `processedOn`."""
        begun = lease.fields.get(b"processedOn", b"")
        if begun.isdigit():
            self._meter.observe(ATTEMPT_SECONDS, labels, max(0.0, self.now() - int(begun) / 1000), lease.trace)
        self._meter.count(ATTEMPTS, (*labels, outcome, verdict))

    def settled(self, lease: Lease, verdict: Verdict) -> None:
        """Measure how long a job took, when its last verdict is written; not of one that stands for nothing now."""
        if verdict is GONE:
            return
        if isinstance(verdict, (Complete, Fail, DeadLetter)):  # a union would be made anew for each job
            took_s = max(0.0, self.now() - added_ms(lease.fields) / 1000)
            self._meter.observe(JOB_SECONDS, (lease.queue, _VERDICTS[type(verdict)]), took_s, lease.trace)
        if isinstance(verdict, DeadLetter):
            self._meter.count(DEAD_LETTERS, (lease.queue, verdict.reason))

    def lost(self, queue: str) -> None:
        """Count a lease that was lost while its job was in flight."""
        self._meter.count(LEASES_LOST, (queue,))

    def stalled(self, queue: str) -> None:
        """Count a job that stalled."""
        self._meter.count(JOBS_STALLED, (queue,))
        if self.failures is not None:
            self.failures.note(queue, STALLED)


UNMEASURED = Measures()


def _outcome_label(outcome: Outcome) -> str:
    """Return the outcome's label: the class of the status, if there is one."""
    match outcome:
        case Answered():
            return _CLASSES[outcome.status // 100]
        case Replied(asks=asks) if asks is not None:
            return "none"
        case Replied():
            return "result" if outcome.error is None else "error"
        case _:
            return _OUTCOMES[type(outcome)]
