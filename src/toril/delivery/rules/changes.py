"""The changes that a ledger can make to a delivery, and its answers."""

from __future__ import annotations

from msgspec import Struct

from toril.delivery.rules.delivery import Delivery, Envelope, TargetResponse


class Accepted(Struct, frozen=True):
    """The delivery is in the ledger."""

    delivery: Delivery


class Duplicate(Struct, frozen=True):
    """Its target and key already have this delivery, which is unchanged; nothing was written."""

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
    """The change is not legal; the delivery as it is now, or None if there is none."""

    delivery: Delivery | None


# Results of an attempt


class Delivered(Struct, frozen=True):
    """The target accepted the delivery."""


class RetryAt(Struct, frozen=True):
    """The attempt is spent, and the next one is made at `at_s`."""

    at_s: float


class DeadLettered(Struct, frozen=True):
    """The attempt is spent, and no further one is made until a person replays the delivery."""

    reason: str


class PutBack(Struct, frozen=True):
    """No attempt is spent: snoozed until `at_s` (None: now), or given back by a worker that ends."""

    at_s: float | None = None
    reason: str | None = None


AttemptResult = Delivered | RetryAt | DeadLettered | PutBack


# Changes


class Begin(Struct, frozen=True, kw_only=True):
    """Begin an attempt. `token` is unique to the attempt, and the same when the call is repeated.

    After `lease_until_s` the attempt counts as lost. An attempt under way with another token counts as lost now, since
    the worker that begins this one holds the job's lock.
    """

    job_id: str
    token: str
    by: str
    at_s: float
    lease_until_s: float


class End(Struct, frozen=True, kw_only=True):
    """Record the result of attempt `number`. `max_attempts` is that of the policy it was judged by.

    `begun` is the delivery as the attempt has begun it: a ledger that has it unchanged need not read it.
    """

    job_id: str
    number: int
    by: str
    at_s: float
    result: AttemptResult
    outcome: str
    duration_s: float
    status_code: int | None = None
    error: str | None = None
    retry_after_s: float | None = None
    response: TargetResponse | None = None
    max_attempts: int | None = None
    begun: Delivery | None = None


class Cancel(Struct, frozen=True, kw_only=True):
    """Cancel an unfinished delivery; a running attempt ends as cancelled."""

    job_id: str
    by: str
    at_s: float


class Replay(Struct, frozen=True, kw_only=True):
    """Give a dead letter a fresh budget, and with `new_key` another `idempotency-key` to send from then on."""

    job_id: str
    by: str
    at_s: float
    new_key: bool = False


class Expire(Struct, frozen=True, kw_only=True):
    """Dead-letter a waiting delivery whose deadline has passed."""

    job_id: str
    by: str
    at_s: float


class Lose(Struct, frozen=True, kw_only=True):
    """Record attempt `number`, whose lease is over, as lost."""

    job_id: str
    number: int
    by: str
    at_s: float


Change = Begin | End | Cancel | Replay | Expire | Lose
