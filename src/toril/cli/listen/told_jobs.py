"""A line about each job that was worked on."""

from __future__ import annotations

from typing import assert_never

from toril.cli.listen.local_worker import CalledEndpoint, ReceivedJob
from toril.cli.terminal import GREEN, RED, YELLOW, coloured, printable
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut
from toril.core.times import duration_text
from toril.core.verdict import Complete, DeadLetter, Fail, HandOver, Retry, Snooze, Verdict

_SHOWN = 200


def told(job: ReceivedJob, called: CalledEndpoint, took_s: float) -> str:
    """Return the line: `charge #12  attempt 1  → 200 in 34ms  completed`."""
    name, job_id = printable(job.name[:_SHOWN]), printable(job.lease.job_id.decode(errors="replace")[:_SHOWN])
    outcome = f"→ {_outcome(called.outcome)} in {duration_text(round(took_s, 3))}"
    return f"{name} #{job_id}  attempt {job.lease.attempt}  {outcome}  {_verdict(called.verdict)}"


def _outcome(outcome: Outcome) -> str:
    match outcome:
        case Answered(status=status):
            return str(status)
        case TimedOut():
            return "no answer in time"
        case ConnectFailed(code=code) | CutOff(code=code):
            return code
        case Replied():
            raise TypeError("an HTTP endpoint answers; only a socket replies")
        case _:
            assert_never(outcome)


def _verdict(verdict: Verdict) -> str:
    match verdict:
        case Complete():
            return coloured("completed", GREEN)
        case HandOver(lock_ms=lock_ms):
            return coloured(f"is settled later, within {duration_text(lock_ms / 1000)}", YELLOW)
        case Retry(after_ms=after_ms, reason=reason):
            when = f"in {duration_text(after_ms / 1000)}" if after_ms else "at once"
            return coloured(f"is tried again {when}: {printable(reason[:_SHOWN])}", YELLOW)
        case Fail(reason=reason):
            return coloured(f"failed: {printable(reason[:_SHOWN])}", RED)
        case Snooze() | DeadLetter():
            raise TypeError("no endpoint decides this")
        case _:
            assert_never(verdict)
