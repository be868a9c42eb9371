"""Verdicts: what to do with a job after an attempt. A destination decides; `toril.engine.settler` writes."""

from __future__ import annotations

from msgspec import Struct

# How often a scheduler that cannot go on is tried again, and logged.
_SCHEDULER_PAUSE_MS = 15_000


class Complete(Struct):
    """Move the job to completed; `returnvalue` is JSON text.

    `fields` are more fields of the job's hash to write in the same step, names and values in turn: what is too large
    for the `completed` event, which repeats the return value.
    """

    returnvalue: bytes
    fields: tuple[bytes, ...] = ()


GONE = Complete(b"null")
"""The job leaves its queue, because what it stands for has ended before: it is not measured a second time."""


class Retry(Struct):
    """Try again after `after_ms` (0 is at once); this attempt counts. No job of the queue starts for `hold_ms`."""

    after_ms: int
    reason: str
    trace: str
    hold_ms: int = 0


class Fail(Struct):
    """Move the job to failed: attempts are used up, or trying again is useless. As for `Retry`, `hold_ms` is of the
    whole queue.
    """

    reason: str
    trace: str
    hold_ms: int = 0


class HandOver(Struct):
    """The endpoint goes on with the job and settles it by its lock token, in `lock_ms` unless it asks for longer.

    `reason` says what in its answer was ignored.
    """

    lock_ms: int
    reason: str | None = None


class Snooze(Struct):
    """Try again after `after_ms`; no attempt is spent."""

    after_ms: int
    reason: str


def keep_for_scheduler(reason: str) -> Snooze:
    """Return the verdict on a job whose scheduler cannot produce its next one: without this job it would end."""
    return Snooze(_SCHEDULER_PAUSE_MS, reason)


class DeadLetter(Struct):
    """The job leaves the queue, and a person has to look. `reason` says why in a word, `error` what happened last."""

    reason: str
    error: str


Settlement = Complete | Retry | Fail | Snooze | DeadLetter
"""What ends an attempt."""

Verdict = Settlement | HandOver
