"""What callers see of an attempt that a registered worker has made."""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from toril.core.lease import Lease
from toril.core.outcome import Answered, Outcome
from toril.core.verdict import Complete, DeadLetter, Fail, HandOver, Retry, Snooze, Verdict


class Attempt(Struct, frozen=True, rename="camel"):
    """One attempt: what became of the job, the status where there was an answer, and when (milliseconds) it began."""

    job_id: str
    outcome: str
    status: int | None
    duration_ms: int
    at: int


def attempt_of(lease: Lease, outcome: Outcome, verdict: Verdict, now_s: float) -> Attempt:
    """The attempt that has just ended."""
    match verdict:
        case Complete():
            became = "completed"
        case Retry():
            became = "retried"
        case Fail():
            became = "failed"
        case HandOver():
            became = "later"
        case Snooze():
            became = "snoozed"
        case DeadLetter():
            became = "dead_lettered"
        case _:
            assert_never(verdict)
    return Attempt(
        lease.job_id.decode(errors="replace"),
        became,
        outcome.status if isinstance(outcome, Answered) else None,
        round(outcome.duration_s * 1000),
        round((now_s - outcome.duration_s) * 1000),
    )
