"""An attempt of a registered worker, as callers see it."""

from __future__ import annotations

from typing import assert_never

from msgspec import Struct

from toril.core.lease import Lease
from toril.core.outcome import Answered, Outcome
from toril.core.verdict import Complete, DeadLetter, Fail, HandOver, Retry, Snooze, Verdict


class Attempt(Struct, frozen=True, rename="camel"):
    """One attempt: its outcome for the job, the status of an answer, and when it began (`at`, milliseconds)."""

    job_id: str
    outcome: str
    status: int | None
    duration_ms: int
    at: int


def attempt_of(lease: Lease, outcome: Outcome, verdict: Verdict, now_s: float) -> Attempt:
    """Return the attempt that has just ended."""
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
