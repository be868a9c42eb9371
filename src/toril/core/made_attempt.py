"""The attempts of a job, kept in a field of the job's hash that the settling step writes.

Only attempts that failed are written, because their settlement writes fields of the job anyway, and those that were
broken off: their job was given back, or its worker was gone. The one that completed the job costs nothing: the times
that BullMQ keeps tell of it.
"""

from __future__ import annotations

from typing import assert_never

import msgspec
from msgspec import Struct

from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut, failure_of_the_way
from toril.core.stored_job import Fields, due_ms
from toril.core.verdict import DeadLetter, Fail, Retry

FIELD = "toril:attempts"
"""The field of the job's hash: JSON objects with a line feed between, the oldest first."""
MOST = 50
MOST_CHARACTERS = 200
STALLED = "stalled"
"""The outcome of an attempt whose worker was gone."""
WORKER_GONE = "The worker was gone: the job stalled"
_WORKERS = {"push_worker": "push", "socket_worker": "socket", "pull_worker": "lease"}


class MadeAttempt(Struct, frozen=True, rename="camel"):
    """One attempt that has ended. Times are milliseconds, `at` since the epoch; `reason` is cut.

    `status` is that of an HTTP answer, `next_in_ms` how long the job waits for the next attempt.
    """

    number: int
    at: int
    duration_ms: int
    outcome: str
    verdict: str
    worker: str | None = None
    status: int | None = None
    reason: str | None = None
    next_in_ms: int | None = None


class JobAttempt(MadeAttempt, frozen=True, rename="camel"):
    """An attempt as callers see it: also how long the job waited for it, where that is known."""

    waited_ms: int | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(MadeAttempt).decode


class Ending(Struct, frozen=True):
    """How an attempt ended: in a word, after how long, with the status of an HTTP answer if there was one."""

    outcome: str
    duration_s: float
    status: int | None = None


def ending_of(outcome: Outcome) -> Ending:
    """Return how an attempt that failed has ended."""
    match outcome:
        case Answered():
            return Ending("failed", outcome.duration_s, outcome.status)
        case Replied():
            return Ending("failed", outcome.duration_s)
        case TimedOut():
            return Ending("timeout", outcome.duration_s)
        case ConnectFailed():
            return Ending(failure_of_the_way(outcome) or "connect_error", outcome.duration_s)
        case CutOff():
            return Ending(failure_of_the_way(outcome) or "cut_off", outcome.duration_s)
        case _:
            assert_never(outcome)


def failed_attempt(
    number: int, ending: Ending, verdict: Retry | Fail | DeadLetter, worker: str, now_s: float
) -> MadeAttempt:
    """Return an attempt that has just failed, as it is kept. `worker` is the kind of its destination."""
    duration_ms = round(ending.duration_s * 1000)
    word, reason, next_in_ms = _told(verdict)
    return MadeAttempt(
        number=number,
        at=round(now_s * 1000) - duration_ms,
        duration_ms=duration_ms,
        outcome=ending.outcome,
        verdict=word,
        worker=_WORKERS.get(worker, worker),
        status=ending.status,
        reason=reason[:MOST_CHARACTERS],
        next_in_ms=next_in_ms,
    )


def broken_off_attempt(number: int, fields: Fields, worker: str, now_s: float, *, stalled: bool) -> MadeAttempt:
    """Return an attempt without an end: its job goes back to waiting, because it was given back, or its worker is gone.

    It began at BullMQ's `processedOn`, and spends none of the job's attempts: the next one has the same number.
    """
    now_ms, begun = round(now_s * 1000), fields.get(b"processedOn", b"")
    at_ms = min(int(begun), now_ms) if begun.isdigit() else now_ms
    return MadeAttempt(
        number=number,
        at=at_ms,
        duration_ms=now_ms - at_ms,
        outcome=STALLED if stalled else "released",
        verdict="retry" if stalled else "release",
        worker=_WORKERS.get(worker, worker),
        reason=WORKER_GONE if stalled else None,
    )


def _told(verdict: Retry | Fail | DeadLetter) -> tuple[str, str, int | None]:
    match verdict:
        case Retry():
            return "retry", verdict.reason, max(0, verdict.after_ms)
        case Fail():
            return "fail", verdict.reason, None
        case DeadLetter():
            return "dead_letter", verdict.error or verdict.reason, None
        case _:
            assert_never(verdict)


def with_attempt(stored: bytes, attempt: MadeAttempt) -> bytes:
    """Return the field with one more attempt in it, and of those before as many as are kept."""
    if not stored:
        return _encode(attempt)
    lines = stored.split(b"\n") if stored.count(b"\n") >= MOST - 1 else [stored]
    return b"\n".join([*lines[-(MOST - 1) :], _encode(attempt)])


def attempts_of(fields: Fields, *, completed: bool) -> list[JobAttempt]:
    """Return the attempts of a job by what its hash has of them, the newest first. `completed`: it has a return value.

    The attempt that completed the job is the time from when BullMQ says that it began until it was completed; who made
    it is not known. What another program has written into the field is left out.
    """
    made = [attempt for line in fields.get(FIELD.encode(), b"").split(b"\n") if (attempt := _read(line)) is not None]
    begun, finished = fields.get(b"processedOn", b""), fields.get(b"finishedOn", b"")
    if completed and begun.isdigit() and finished.isdigit():
        number = fields.get(b"atm", b"") or fields.get(b"attemptsMade", b"")
        count = int(number) if number.isdigit() else len(made) + 1
        made.append(MadeAttempt(count, int(begun), max(0, int(finished) - int(begun)), "completed", "complete"))
    made = made[-MOST:]
    before = [None, *made]
    return [_shown(attempt, earlier, fields) for attempt, earlier in zip(made, before, strict=False)][::-1]


def _shown(attempt: MadeAttempt, before: MadeAttempt | None, fields: Fields) -> JobAttempt:
    since_ms: int | None = None
    if before is not None:
        since_ms = before.at + before.duration_ms
    elif attempt.number == 1:
        since_ms = due_ms(fields) or None
    waited_ms = None if since_ms is None else max(0, attempt.at - since_ms)
    return JobAttempt(**msgspec.structs.asdict(attempt), waited_ms=waited_ms)


def _read(line: bytes) -> MadeAttempt | None:
    try:
        return _decode(line) if line else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
