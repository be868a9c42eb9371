"""Decides what a change does to a delivery, without I/O.

Every ledger loads a delivery under a lock (or compares before it writes), asks `decide` what a change makes of it, and
writes that in one commit. So all ledgers agree on what is legal, on attempt numbers, and on what a second call means.
`lifecycle.NEXT` says which status may follow which; nothing here makes a transition that it does not have.
"""

from __future__ import annotations

from typing import assert_never

import msgspec
from msgspec import Struct

from toril.delivery.rules.changes import (
    Begin,
    Begun,
    Cancel,
    Change,
    DeadLettered,
    Delivered,
    End,
    Expire,
    Lose,
    PutBack,
    Refused,
    Replay,
    RetryAt,
    Written,
)
from toril.delivery.rules.delivery import AttemptOutcome, AttemptRecord, Delivery, Envelope, TargetResponse, clean
from toril.delivery.rules.lifecycle import TERMINAL, WAITING, Status, Transition, may_follow

DEADLINE = "deadline"
"""The reason of a delivery that was dead-lettered because its deadline is over."""


class Decision(Struct, frozen=True):
    """What to write in one commit: the new state of the delivery, its new transitions, its finished attempts, and a
    response if there is one. An attempt replaces one that was written with the same number.
    """

    delivery: Delivery
    transitions: tuple[Transition, ...]
    attempts: tuple[AttemptRecord, ...] = ()
    response: TargetResponse | None = None


def decide(change: Change, delivery: Delivery) -> Decision | Written | Refused:
    """Decide on a change: a `Decision` to write, `Written` if it was written before, `Refused` if it is not legal."""
    match change:
        case Begin():
            return _begin(change, delivery)
        case End():
            return _end(change, delivery)
        case Cancel():
            return _cancel(change, delivery)
        case Replay():
            return _replay(change, delivery)
        case Expire():
            return _expire(change, delivery)
        case Lose():
            return _lose(change, delivery)
        case _:
            assert_never(change)


def needs_envelope(change: Change, decided: Decision | Written | Refused) -> bool:
    """Return True if an attempt begins, which needs the envelope."""
    return (
        isinstance(change, Begin) and not isinstance(decided, Refused) and decided.delivery.status is Status.DISPATCHING
    )


def begun(decided: Decision | Written | Refused, envelope: Envelope | None) -> Begun | Refused:
    """Return what a ledger answers to a `Begin` once the decision is written."""
    if isinstance(decided, Refused):
        return decided
    if decided.delivery.status is not Status.DISPATCHING or envelope is None:
        return Refused(decided.delivery)
    return Begun(decided.delivery, envelope)


def written(decided: Decision | Written | Refused) -> Written | Refused:
    """Return what a ledger answers to any other change once the decision is written."""
    return Written(decided.delivery) if isinstance(decided, Decision) else decided


def _begin(change: Begin, now: Delivery) -> Decision | Written | Refused:
    if now.status is not Status.DISPATCHING and not may_follow(now.status, Status.DISPATCHING):
        return Refused(now)
    steps: list[Transition] = []
    attempts: tuple[AttemptRecord, ...] = ()
    if now.status is Status.DISPATCHING:
        if now.token == change.token:
            return Written(now)
        lost = _lost(now, change)
        now, attempts = lost.delivery, lost.attempts
        steps.extend(lost.transitions)
    if now.deadline_s is not None and now.deadline_s <= change.at_s:
        over = _dead_letter(now, change, DEADLINE)
        return Decision(over.delivery, (*steps, *over.transitions), attempts)
    number = now.attempts_begun + 1
    step = _step(now, Status.DISPATCHING, change, attempt=number)
    after = msgspec.structs.replace(
        now,
        status=Status.DISPATCHING,
        seq=step.seq,
        updated_at_s=change.at_s,
        next_attempt_at_s=None,
        attempts_begun=number,
        token=change.token,
        started_at_s=change.at_s,
        lease_until_s=change.lease_until_s,
    )
    return Decision(after, (*steps, step), attempts)


def _end(change: End, now: Delivery) -> Decision | Written | Refused:
    if now.attempts_begun != change.number:
        return Refused(now)
    if now.attempts_begun and now.status in WAITING and not now.token:
        return _ended_late(change, now)
    if now.status is not Status.DISPATCHING:
        # Recorded before, or cancelled meanwhile. Without a token it was recorded as lost before that.
        return Written(now) if now.token else Refused(now)
    return _ended(change, now)


def _ended_late(change: End, now: Delivery) -> Decision:
    """Record the true end of an attempt that was recorded as lost, where no other attempt has begun since."""
    step = _step(now, Status.DISPATCHING, change, reason="the worker was not lost", attempt=change.number)
    under_way = msgspec.structs.replace(
        now,
        status=Status.DISPATCHING,
        seq=step.seq,
        updated_at_s=change.at_s,
        next_attempt_at_s=None,
        token=f"late.{change.number}",
    )
    ended = _ended(change, under_way)
    return msgspec.structs.replace(ended, transitions=(step, *ended.transitions))


def _ended(change: End, now: Delivery) -> Decision:
    error = clean(change.error)
    match change.result:
        case Delivered():
            to, reason, next_at_s = Status.DELIVERED, None, None
        case RetryAt(at_s):
            to, reason, next_at_s = Status.RETRYING, error, at_s
        case DeadLettered(why):
            to, reason, next_at_s = Status.DEAD_LETTERED, clean(why), None
        case PutBack():
            back = _put_back(now, change, change.outcome, change.result, error)
            return msgspec.structs.replace(back, response=change.response)
        case _:
            assert_never(change.result)
    step = _step(now, to, change, reason=reason, attempt=change.number)
    after = msgspec.structs.replace(
        now,
        status=to,
        seq=step.seq,
        updated_at_s=change.at_s,
        next_attempt_at_s=next_at_s,
        finished_at_s=change.at_s if to in TERMINAL else None,
        attempts_made=now.attempts_made + 1,
        last_error=now.last_error if error is None else error,
        reason=reason if to is Status.DEAD_LETTERED else None,
        max_attempts=now.max_attempts if change.max_attempts is None else change.max_attempts,
    )
    attempt = AttemptRecord(
        number=change.number,
        started_at_s=now.attempt_began_at_s,
        duration_s=change.duration_s,
        outcome=change.outcome,
        status_code=change.status_code,
        error=error,
        retry_after_s=change.retry_after_s,
    )
    return Decision(after, (step,), (attempt,), change.response)


def _cancel(change: Cancel, now: Delivery) -> Decision | Refused:
    if not may_follow(now.status, Status.CANCELLED):
        return Refused(now)
    running = now.status is Status.DISPATCHING
    step = _step(now, Status.CANCELLED, change, attempt=now.attempts_begun if running else None)
    attempts = (_broken_off(now, change.at_s, AttemptOutcome.CANCELLED, None),) if running else ()
    return Decision(_finished(now, step), (step,), attempts)


def _replay(change: Replay, now: Delivery) -> Decision | Refused:
    if now.status is not Status.DEAD_LETTERED:
        return Refused(now)
    step = _step(now, Status.QUEUED, change, reason="replayed")
    after = msgspec.structs.replace(
        now,
        status=Status.QUEUED,
        seq=step.seq,
        updated_at_s=change.at_s,
        next_attempt_at_s=None,
        finished_at_s=None,
        attempts_made=0,
        reason=None,
        replay_key=f"{now.job_id}.{step.seq}" if change.new_key else now.replay_key,
        # A deadline that has passed would dead-letter it again at once.
        deadline_s=None if now.deadline_s is not None and now.deadline_s <= change.at_s else now.deadline_s,
    )
    return Decision(after, (step,))


def _expire(change: Expire, now: Delivery) -> Decision | Refused:
    if now.status not in WAITING or now.deadline_s is None or now.deadline_s > change.at_s:
        return Refused(now)
    return _dead_letter(now, change, DEADLINE)


def _lose(change: Lose, now: Delivery) -> Decision | Refused:
    if now.attempts_begun != change.number or now.status is not Status.DISPATCHING:
        return Refused(now)
    if now.lease_until_s is not None and now.lease_until_s > change.at_s:
        return Refused(now)
    return _lost(now, change)


def _lost(now: Delivery, change: Change) -> Decision:
    back = _put_back(now, change, AttemptOutcome.LOST, PutBack(reason="the worker was lost"))
    return msgspec.structs.replace(back, delivery=msgspec.structs.replace(back.delivery, token=""))


def _put_back(now: Delivery, change: Change, outcome: str, back: PutBack, error: str | None = None) -> Decision:
    to = Status.RETRYING if now.attempts_made else Status.QUEUED
    step = _step(now, to, change, reason=clean(back.reason), attempt=now.attempts_begun)
    after = msgspec.structs.replace(
        now, status=to, seq=step.seq, updated_at_s=change.at_s, next_attempt_at_s=back.at_s, lease_until_s=None
    )
    return Decision(after, (step,), (_broken_off(now, change.at_s, outcome, error),))


def _dead_letter(now: Delivery, change: Change, reason: str) -> Decision:
    step = _step(now, Status.DEAD_LETTERED, change, reason=reason)
    after = msgspec.structs.replace(_finished(now, step), reason=reason, last_error=now.last_error or reason)
    return Decision(after, (step,))


def _finished(now: Delivery, step: Transition) -> Delivery:
    return msgspec.structs.replace(
        now,
        status=step.to,
        seq=step.seq,
        updated_at_s=step.at_s,
        next_attempt_at_s=None,
        finished_at_s=step.at_s,
    )


def _step(
    now: Delivery, to: Status, change: Change, *, reason: str | None = None, attempt: int | None = None
) -> Transition:
    if not may_follow(now.status, to):
        raise ValueError(f"a delivery that is {now.status} cannot become {to}")
    return Transition(
        seq=now.seq + 1, source=now.status, to=to, at_s=change.at_s, reason=reason, attempt=attempt, by=change.by
    )


def _broken_off(now: Delivery, at_s: float, outcome: str, error: str | None) -> AttemptRecord:
    started_at_s = now.attempt_began_at_s
    return AttemptRecord(
        number=now.attempts_begun,
        started_at_s=started_at_s,
        duration_s=max(0.0, at_s - started_at_s),
        outcome=outcome,
        error=error,
    )
