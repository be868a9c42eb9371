"""The stores of the delivery door as Protocols: the ledger, the sightings of other ledgers, the circuit breakers, and
what it needs of the targets' queues.

The ledger has three small Protocols, and each adapter implements all three. Each call is one commit, or part of one
that it shares with concurrent calls: what it returns is as durable as the ledger makes it. Any method may raise
`LedgerUnavailable`: it may then be unknown whether something was written, and calling again with the same arguments is
safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from toril.bullmq.ports.queues import QueueHolds
from toril.core.destination import LeaseRules
from toril.core.errors import StoreError
from toril.delivery.rules.breaker import NO_SUCCESSES, Breaker, BreakerDecision, FailedAttempt, Successes
from toril.delivery.rules.changes import (
    Accepted,
    Begin,
    Begun,
    Cancel,
    Duplicate,
    End,
    Expire,
    Lose,
    Refused,
    Replay,
    Written,
)
from toril.delivery.rules.delivery import AttemptRecord, Delivery, Envelope, NewDelivery, TargetResponse
from toril.delivery.rules.lifecycle import Status, Transition
from toril.delivery.rules.target import BreakerPolicy
from toril.engine.ports import LeaseStore


class DeliveryHistory(Struct, frozen=True):
    """A delivery with its transitions and attempts, in order, and the last response."""

    delivery: Delivery
    transitions: list[Transition]
    attempts: list[AttemptRecord]
    response: TargetResponse | None


class DeliveryFilter(Struct, frozen=True, kw_only=True):
    """Which deliveries to list. Everything given must hold; `since_s` is inclusive, `until_s` exclusive.

    Times are those of acceptance, or with `by_end` those at which a delivery finished. `targets` None means all.
    `reason` is why it became a dead letter, `error_contains` a part of its last error.
    """

    targets: tuple[str, ...] | None = None
    statuses: tuple[Status, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    since_s: float | None = None
    until_s: float | None = None
    by_end: bool = False
    reason: str | None = None
    error_contains: str | None = None

    def matches(self, one: Delivery) -> bool:
        """Return True if a delivery passes the filter."""
        at_s = one.finished_at_s if self.by_end else one.created_at_s
        return (
            (self.targets is None or one.target in self.targets)
            and (not self.statuses or one.status in self.statuses)
            and all(one.labels.get(name) == value for name, value in self.labels)
            and (self.since_s is None or (at_s is not None and at_s >= self.since_s))
            and (self.until_s is None or (at_s is not None and at_s < self.until_s))
            and (self.reason is None or self.reason == one.reason)
            and (self.error_contains is None or self.error_contains in (one.last_error or ""))
        )


class TargetDepth(Struct, frozen=True, kw_only=True):
    """Counts of a target's deliveries by status, and when the oldest unfinished one was accepted."""

    queued: int = 0
    dispatching: int = 0
    retrying: int = 0
    dead_letters: int = 0
    oldest_s: float | None = None


class Ledger(Protocol):
    """Writes: accepts deliveries and takes them through their states."""

    async def accept(self, deliveries: Sequence[NewDelivery]) -> list[Accepted | Duplicate | StoreError]:
        """Accept each, or find that its target and key already have one. Atomic for each; one never affects another.

        Raises nothing: the error that kept one from being accepted is returned in its place. Idempotent by the job id:
        a delivery that was accepted before is `Accepted` again.
        """
        ...

    async def begin(self, change: Begin) -> Begun | Refused:
        """Begin an attempt: `queued|retrying → dispatching`, committed before the request is made.

        An attempt under way with another token is recorded as lost first. `Refused` means that no attempt may be made:
        the delivery is delivered, cancelled or dead-lettered (by this call, if its deadline has passed), or unknown
        (None), and its job leaves the queue. Idempotent by the token.
        """
        ...

    async def end(self, change: End) -> Written | Refused:
        """Record an attempt with its result: `dispatching → delivered|retrying|dead_lettered|queued`, in one step.

        Committed before the job moves in the queue. `Written.delivery` is the delivery as it is now, `cancelled` if
        that came first. The true end of an attempt that was recorded as lost is still recorded unless another attempt
        has begun; then it is `Refused`, and nothing is written. Idempotent by the attempt's number.
        """
        ...

    async def cancel(self, change: Cancel) -> Written | Refused:
        """Cancel: `queued|dispatching|retrying → cancelled`, also during an attempt. `Refused` if the delivery has
        finished or is unknown.
        """
        ...

    async def replay(self, change: Replay) -> Written | Refused:
        """Replay: `dead_lettered → queued` with a fresh budget, or `Refused`."""
        ...

    async def expire(self, change: Expire) -> Written | Refused:
        """Dead-letter a delivery whose deadline has passed: `queued|retrying → dead_lettered`, or `Refused`."""
        ...

    async def lose(self, change: Lose) -> Written | Refused:
        """Record an attempt whose lease is over as lost: `dispatching → retrying|queued`, or `Refused`."""
        ...


class LedgerReader(Protocol):
    """Reads; writes nothing."""

    async def get(self, job_id: str) -> Delivery | None:
        """Return a delivery as it is now, or None."""
        ...

    async def some(self, job_ids: Sequence[str]) -> dict[str, Delivery]:
        """Return those of these deliveries that exist, by job id."""
        ...

    async def history(self, job_id: str) -> DeliveryHistory | None:
        """Return a delivery with its history, all of one moment, or None."""
        ...

    async def envelope(self, job_id: str) -> Envelope | None:
        """Return the envelope of a delivery, or None."""
        ...

    async def page(self, which: DeliveryFilter, *, before: str | None, limit: int) -> list[Delivery]:
        """Return the newest that match, by job id, and only those older than `before`."""
        ...

    async def depth(self, target: str) -> TargetDepth:
        """Count the deliveries of a target."""
        ...

    async def check(self) -> None:
        """Check by a write that the ledger can be written to."""
        ...

    async def identity(self) -> str:
        """Return the id that this ledger was given when its schema was made. No other ledger has it, except a backup of
        this one that was restored.
        """
        ...


class LedgerUpkeep(Protocol):
    """The operations for recovery and retention."""

    async def waiting(self, target: str, *, due_before_s: float, after: str | None, limit: int) -> list[Delivery]:
        """Return waiting deliveries (`queued|retrying`) that are due before then, by job id, beginning after `after`.

        An empty list means that there are no more.
        """
        ...

    async def overrun(self, at_s: float, limit: int) -> list[Delivery]:
        """Return deliveries with an attempt under way whose lease is over."""
        ...

    async def expired(self, at_s: float, limit: int) -> list[Delivery]:
        """Return waiting deliveries whose deadline has passed."""
        ...

    async def finished(self, target: str, status: Status, before_s: float, limit: int) -> list[Delivery]:
        """Return deliveries that finished with this status before then, the oldest first."""
        ...

    async def blobs(self, job_ids: Sequence[str]) -> list[str]:
        """Return the names of the blobs that these deliveries refer to."""
        ...

    async def forget(self, job_ids: Sequence[str]) -> None:
        """Remove finished deliveries with all that belongs to them, including their keys; others stay. Idempotent."""
        ...

    async def targets(self) -> list[str]:
        """Return every target that has a delivery here, whether or not it is configured."""
        ...


class Sighting(Struct, frozen=True, kw_only=True):
    """Another ledger with deliveries to a target of this instance.

    `seen_s` is how long ago an instance with it was seen; `live` is True while one is running, and `senior` if it was
    running before this one.
    """

    target: str
    ledger_id: str
    seen_s: float
    live: bool
    senior: bool


class LedgerSightings(Protocol):
    """Which ledgers the instances on this Redis have, by target and by Redis' clock."""

    async def note(
        self, ledger_id: str, targets: Sequence[str], *, place: str = "", starting: bool = False
    ) -> list[Sighting]:
        """Record that an instance with this ledger has these targets; return the other ledgers that have them.

        `place` names where the instance has its ledger. One that is `starting` takes the place of the ledger that was
        there before, which is gone (its file was deleted, say) unless it is at work in another place too.
        """
        ...


class AnyLedger(Ledger, LedgerReader, LedgerUpkeep, Protocol):
    """A ledger with all operations."""


class Breakers(Protocol):
    """The circuit breakers of targets, shared by the whole fleet.

    Each call is one atomic step, by one clock, and does what the function of `toril.delivery.rules.breaker` does.
    """

    async def admit(
        self,
        target: str,
        policy: BreakerPolicy | None,
        probe: str,
        probe_for_s: float,
        successes: Successes = NO_SUCCESSES,
    ) -> BreakerDecision:
        """Decide whether an attempt may be made now. If it becomes a probe, its id is `probe`, for `probe_for_s`.

        Without a policy only a hold keeps it from being made.
        """
        ...

    async def succeeded(self, target: str, policy: BreakerPolicy, successes: Successes) -> Breaker:
        """Record attempts that succeeded and are no probes; return the breaker after them."""
        ...

    async def failed(
        self, target: str, policy: BreakerPolicy | None, failure: FailedAttempt, successes: Successes = NO_SUCCESSES
    ) -> Breaker:
        """Record a failed attempt, and the successes before it; return the breaker after it."""
        ...

    async def hold(self, target: str, for_s: float) -> Breaker:
        """Let no attempt be made for so long, or until the present hold ends if that is later."""
        ...

    async def release(self, target: str) -> bool:
        """End a hold; return whether there was one."""
        ...

    async def passed(self, target: str, policy: BreakerPolicy, probe: str) -> Breaker:
        """Record a successful probe; return the breaker after it."""
        ...

    async def left(self, target: str, policy: BreakerPolicy, probe: str) -> None:
        """Free the place of a probe that had no outcome."""
        ...

    async def read(self, target: str) -> Breaker:
        """Return the breaker. It stays open until an attempt is admitted."""
        ...


class TargetLeases(Protocol):
    """A factory of lease stores."""

    def of(self, queue: str, rules: LeaseRules) -> LeaseStore:
        """Return the leases of a target's queue, under the rules of the target."""
        ...


class TargetHolds(QueueHolds, Protocol):
    """Holds of the targets' queues, and what keeps their jobs from starting besides."""

    async def paused(self, queue: str) -> bool:
        """Return True if the queue is paused."""
        ...


class TargetControl(TargetHolds, Protocol):
    """Pauses and holds of the targets' queues. A pause outlives restarts, and leaves attempts under way alone."""

    async def pause(self, queue: str) -> None:
        """Let no attempt begin. Idempotent."""
        ...

    async def resume(self, queue: str) -> None:
        """End a pause. Idempotent."""
        ...

    async def paused_since_ms(self, queue: str) -> int | None:
        """Return since when the queue is paused (wall clock); None where it is not, or that is not known."""
        ...


class JobCounts(Protocol):
    """A reader of how many jobs of a queue are in which state."""

    async def counts(self, queue: str, states: Sequence[str]) -> Mapping[str, int]:
        """Return how many jobs are in each of these states, by BullMQ's names."""
        ...
