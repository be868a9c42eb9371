"""A delivery as the ledger keeps it, and the steps it can take, decided without I/O.

Every ledger loads a delivery under a lock (or compares before it writes), asks `decide` what a change makes of it,
and writes that in one commit. So no two ledgers can differ in what is legal, what an attempt number is, or what a
second call means.
"""

from __future__ import annotations

import enum
import re
import uuid
from collections.abc import Mapping
from typing import assert_never

import msgspec
from msgspec import Struct

from toril.core.lifecycle import OPEN, TERMINAL, WAITING, Status, Transition

QUEUE_PREFIX = "deliver-"
_JOB_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
DEADLINE = "deadline"
"""The reason of what is dead-lettered because its time is over."""


def folder_of(ledger_id: str) -> str:
    """The folder in the blob store that has the bodies of a ledger's deliveries, and no other ledger's."""
    return f"deliveries-{ledger_id}"


def queue_of(target: str) -> str:
    """The BullMQ queue of a target."""
    return QUEUE_PREFIX + target


def new_job_id(at_s: float, entropy: bytes) -> str:
    """A job id that sorts by its time (RFC 9562, UUID version 7); `entropy` is 10 bytes of chance."""
    raw = bytearray(int(at_s * 1000).to_bytes(6, "big") + entropy)
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    return str(uuid.UUID(bytes=bytes(raw)))


def is_job_id(text: str) -> bool:
    """Whether this can be the id of a delivery."""
    return _JOB_ID.match(text) is not None


class Inline(Struct, frozen=True, tag="inline"):
    """Content that is kept with its row."""

    data: bytes


class Stored(Struct, frozen=True, tag="stored"):
    """Content in the blob store, by its name there."""

    name: str
    size_bytes: int


Content = Inline | Stored


class Envelope(Struct, frozen=True, kw_only=True):
    """The request to make: what of it the caller decides.

    `path` is joined to the target's URL (None: nothing is), header names are as given, and `content` is None where
    there is no body at all.
    """

    method: str = "POST"
    path: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    content: Content | None = None


class RecordedResponse(Struct, frozen=True, kw_only=True):
    """An answer of the target. `truncated`: what is kept is not all that came."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    content: Content = Inline(b"")
    truncated: bool = False

    @property
    def body_bytes(self) -> int:
        """How much of the body is kept."""
        return len(self.content.data) if isinstance(self.content, Inline) else self.content.size_bytes


class AttemptOutcome(enum.StrEnum):
    """How an attempt went."""

    ANSWERED = "answered"
    TIMEOUT = "timeout"
    CONNECT_ERROR = "connect_error"
    TLS_ERROR = "tls_error"
    CUT_OFF = "cut_off"
    EGRESS_REFUSED = "egress_refused"
    CANCELLED = "cancelled"
    LOST = "lost"


class Attempt(Struct, frozen=True, kw_only=True):
    """An attempt that is over; `number` counts from 1 and goes on across replays."""

    number: int
    started_at_s: float
    duration_s: float
    outcome: AttemptOutcome
    status_code: int | None = None
    error: str | None = None
    retry_after_s: float | None = None


class Delivery(Struct, frozen=True, kw_only=True):
    """A delivery as it stands; its envelope, response and history are kept beside it.

    `attempts_made` counts those spent of the present budget, `attempts_begun` all there ever were: the number of the
    last. `token`, `started_at_s` and `lease_until_s` belong to the attempt under way, or the last one.
    """

    job_id: str
    target: str
    status: Status
    seq: int
    created_at_s: float
    updated_at_s: float
    max_attempts: int
    next_attempt_at_s: float | None = None
    finished_at_s: float | None = None
    deadline_s: float | None = None
    priority: int = 0
    idempotency_key: str | None = None
    labels: Mapping[str, str] = {}
    attempts_made: int = 0
    attempts_begun: int = 0
    token: str = ""
    started_at_s: float | None = None
    lease_until_s: float | None = None
    last_error: str | None = None
    reason: str | None = None


class NewDelivery(Struct, frozen=True, kw_only=True):
    """A delivery to accept. `fingerprint` is what a second envelope under the same key is compared with."""

    job_id: str
    target: str
    envelope: Envelope
    at_s: float
    max_attempts: int
    by: str
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    not_before_s: float | None = None
    deadline_s: float | None = None
    priority: int = 0
    labels: Mapping[str, str] = {}

    def first(self) -> tuple[Delivery, Transition]:
        """The delivery as it begins, and its first transition."""
        delivery = Delivery(
            job_id=self.job_id,
            target=self.target,
            status=Status.QUEUED,
            seq=1,
            created_at_s=self.at_s,
            updated_at_s=self.at_s,
            max_attempts=self.max_attempts,
            next_attempt_at_s=self.not_before_s,
            deadline_s=self.deadline_s,
            priority=self.priority,
            idempotency_key=self.idempotency_key,
            labels=self.labels,
        )
        return delivery, Transition(seq=1, source=None, to=Status.QUEUED, at_s=self.at_s, by=self.by)


class Accepted(Struct, frozen=True):
    """It is in the ledger now."""

    delivery: Delivery


class Duplicate(Struct, frozen=True):
    """Its target and key have a delivery already, which stands as it was; nothing was written."""

    delivery: Delivery
    fingerprint: bytes


class Begun(Struct, frozen=True):
    """The attempt may be made now; its number is `delivery.attempts_begun`."""

    delivery: Delivery
    envelope: Envelope


class Written(Struct, frozen=True):
    """The change is in the ledger, by this call or by an earlier one of the same."""

    delivery: Delivery


class Refused(Struct, frozen=True):
    """The change is not legal any more; the delivery as it stands, or None where there is none."""

    delivery: Delivery | None


# What an attempt comes to


class Delivered(Struct, frozen=True):
    """The target has it."""


class RetryAt(Struct, frozen=True):
    """The attempt is spent, and the next one comes then."""

    at_s: float


class DeadLettered(Struct, frozen=True):
    """The attempt is spent, and a person has to look."""

    reason: str


class PutBack(Struct, frozen=True):
    """Nothing is spent: snoozed until then (None: now), or given back by a worker that ends."""

    at_s: float | None = None
    reason: str | None = None


Settlement = Delivered | RetryAt | DeadLettered | PutBack


# Changes


class Begin(Struct, frozen=True, kw_only=True):
    """Begin an attempt. `token` is unique to it and the same when the call is tried again.

    After `lease_until_s` whoever made the attempt is taken for lost. An attempt under another token is taken for lost
    now: who begins holds the job's lock.
    """

    job_id: str
    token: str
    by: str
    at_s: float
    lease_until_s: float


class End(Struct, frozen=True, kw_only=True):
    """Record what came of attempt `number`. `max_attempts` is that of the policy it was judged by."""

    job_id: str
    number: int
    by: str
    at_s: float
    settlement: Settlement
    outcome: AttemptOutcome
    duration_s: float
    status_code: int | None = None
    error: str | None = None
    retry_after_s: float | None = None
    response: RecordedResponse | None = None
    max_attempts: int | None = None


class Cancel(Struct, frozen=True, kw_only=True):
    """Cancel what is not over; a running attempt ends as cancelled."""

    job_id: str
    by: str
    at_s: float


class Replay(Struct, frozen=True, kw_only=True):
    """Give a dead letter a fresh budget."""

    job_id: str
    by: str
    at_s: float


class Expire(Struct, frozen=True, kw_only=True):
    """Dead-letter what waits and whose deadline is over."""

    job_id: str
    by: str
    at_s: float


class Lose(Struct, frozen=True, kw_only=True):
    """Take attempt `number`, whose lease is over, for lost."""

    job_id: str
    number: int
    by: str
    at_s: float


Change = Begin | End | Cancel | Replay | Expire | Lose


class Decision(Struct, frozen=True):
    """What to write in one commit: the delivery as it will be, its new transitions, its attempts that are over, and a
    response if there is one. An attempt takes the place of one that was written with the same number.
    """

    delivery: Delivery
    transitions: tuple[Transition, ...]
    attempts: tuple[Attempt, ...] = ()
    response: RecordedResponse | None = None


def decide(change: Change, delivery: Delivery) -> Decision | Written | Refused:
    """What a change makes of a delivery: something to write, nothing because it was written before, or nothing at
    all.
    """
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


def begun(decided: Decision | Written | Refused, envelope: Envelope | None) -> Begun | Refused:
    """What a ledger returns of a `Begin` once its decision is written."""
    if isinstance(decided, Refused):
        return decided
    if decided.delivery.status is not Status.DISPATCHING or envelope is None:
        return Refused(decided.delivery)
    return Begun(decided.delivery, envelope)


def written(decided: Decision | Written | Refused) -> Written | Refused:
    """What a ledger returns of any other change once its decision is written."""
    return Written(decided.delivery) if isinstance(decided, Decision) else decided


def _begin(change: Begin, now: Delivery) -> Decision | Written | Refused:
    if now.status in TERMINAL:
        return Refused(now)
    steps: list[Transition] = []
    attempts: tuple[Attempt, ...] = ()
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
        # Recorded before, or cancelled meanwhile. Without a token it was taken for lost before that.
        return Written(now) if now.token else Refused(now)
    return _ended(change, now)


def _ended_late(change: End, now: Delivery) -> Decision:
    """An attempt that was taken for lost has ended after all, and none has begun since: it was under way all the time.

    Its record takes the place of the one that says it was lost.
    """
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
    match change.settlement:
        case Delivered():
            to, reason, next_at_s = Status.DELIVERED, None, None
        case RetryAt(at_s):
            to, reason, next_at_s = Status.RETRYING, error, at_s
        case DeadLettered(why):
            to, reason, next_at_s = Status.DEAD_LETTERED, clean(why), None
        case PutBack():
            back = _put_back(now, change, change.outcome, change.settlement, error)
            return msgspec.structs.replace(back, response=change.response)
        case _:
            assert_never(change.settlement)
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
    attempt = Attempt(
        number=change.number,
        started_at_s=_started(now),
        duration_s=change.duration_s,
        outcome=change.outcome,
        status_code=change.status_code,
        error=error,
        retry_after_s=change.retry_after_s,
    )
    return Decision(after, (step,), (attempt,), change.response)


def _cancel(change: Cancel, now: Delivery) -> Decision | Refused:
    if now.status not in OPEN:
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
        # A deadline that is over would send it back at once.
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


def _put_back(
    now: Delivery, change: Change, outcome: AttemptOutcome, back: PutBack, error: str | None = None
) -> Decision:
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
    return Transition(
        seq=now.seq + 1, source=now.status, to=to, at_s=change.at_s, reason=reason, attempt=attempt, by=change.by
    )


def _broken_off(now: Delivery, at_s: float, outcome: AttemptOutcome, error: str | None) -> Attempt:
    started_at_s = _started(now)
    return Attempt(
        number=now.attempts_begun,
        started_at_s=started_at_s,
        duration_s=max(0.0, at_s - started_at_s),
        outcome=outcome,
        error=error,
    )


def _started(now: Delivery) -> float:
    return now.updated_at_s if now.started_at_s is None else now.started_at_s


def clean(text: str | None) -> str | None:
    """A text that every store can hold: no NUL and no half characters."""
    if text is None:
        return None
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()
