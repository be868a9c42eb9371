"""What the delivery door needs of its ledger, as small Protocols; one ledger implements all three.

Each call is one commit, or part of one that it shares with the calls beside it: what it returns is durable as the
ledger's mode has it. Any method may raise `LedgerUnavailable`: whether something was written may then be unknown, and
calling again with the same arguments is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from toril.core.delivery import (
    Accepted,
    Attempt,
    Begin,
    Begun,
    Cancel,
    Delivery,
    Duplicate,
    End,
    Expire,
    Lose,
    NewDelivery,
    RecordedResponse,
    Refused,
    Replay,
    Written,
)
from toril.core.errors import StoreError
from toril.core.lifecycle import Status, Transition


class History(Struct, frozen=True):
    """A delivery with all that is known of it; transitions and attempts in order."""

    delivery: Delivery
    transitions: list[Transition]
    attempts: list[Attempt]
    response: RecordedResponse | None


class Filter(Struct, frozen=True, kw_only=True):
    """Which deliveries. Everything given must hold; `since` is inclusive, `until` exclusive.

    Times are those of acceptance, or with `by_end` those when a delivery was finished. `targets` None is all of them.
    """

    targets: tuple[str, ...] | None = None
    statuses: tuple[Status, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    since_s: float | None = None
    until_s: float | None = None
    by_end: bool = False
    error_contains: str | None = None

    def matches(self, one: Delivery) -> bool:
        """Whether a delivery is one of those."""
        at_s = one.finished_at_s if self.by_end else one.created_at_s
        return (
            (self.targets is None or one.target in self.targets)
            and (not self.statuses or one.status in self.statuses)
            and all(one.labels.get(name) == value for name, value in self.labels)
            and (self.since_s is None or (at_s is not None and at_s >= self.since_s))
            and (self.until_s is None or (at_s is not None and at_s < self.until_s))
            and (self.error_contains is None or self.error_contains in (one.last_error or ""))
        )


class Depth(Struct, frozen=True, kw_only=True):
    """What a target has in hand, and when the oldest unfinished delivery was accepted."""

    queued: int = 0
    dispatching: int = 0
    retrying: int = 0
    dead_letters: int = 0
    oldest_s: float | None = None


class Ledger(Protocol):
    """Writes: accepts deliveries and takes them through their states."""

    async def accept(self, deliveries: Sequence[NewDelivery]) -> list[Accepted | Duplicate | StoreError]:
        """Accept each, or find that its target and key have one already. Atomic for each; one never spoils another.

        Raises nothing: what kept one from being accepted stands in its place. Idempotent by the job id: what was
        accepted under it before is `Accepted` again.
        """
        ...

    async def begin(self, change: Begin) -> Begun | Refused:
        """Begin an attempt: `queued|retrying → dispatching`, committed before the request is made.

        An attempt that was under way with another token is recorded as lost first. `Refused` says why there is to be no
        attempt: it is delivered, cancelled or dead-lettered (now, too, if its deadline is over), or unknown (None);
        its job leaves the queue. Idempotent by the token.
        """
        ...

    async def end(self, change: End) -> Written | Refused:
        """Record an attempt and what it comes to: `dispatching → delivered|retrying|dead_lettered|queued`, in one step.

        Commits before the job moves in the queue. `Written.delivery` says how it stands now, which is `cancelled`
        when that came first. An attempt that was taken for lost has its true end recorded as long as no other one has
        begun; `Refused`: one has, and nothing was written. Idempotent by the attempt's number.
        """
        ...

    async def cancel(self, change: Cancel) -> Written | Refused:
        """`queued|dispatching|retrying → cancelled`, or `Refused`: it is over (or unknown). It wins over a running
        attempt.
        """
        ...

    async def replay(self, change: Replay) -> Written | Refused:
        """`dead_lettered → queued` with a fresh budget, or `Refused`."""
        ...

    async def expire(self, change: Expire) -> Written | Refused:
        """`queued|retrying → dead_lettered`, because its deadline is over, or `Refused`."""
        ...

    async def lose(self, change: Lose) -> Written | Refused:
        """`dispatching → retrying|queued`, because the lease of this attempt is over, or `Refused`."""
        ...


class LedgerReader(Protocol):
    """Reads; writes nothing."""

    async def get(self, job_id: str) -> Delivery | None:
        """A delivery as it stands."""
        ...

    async def some(self, job_ids: Sequence[str]) -> dict[str, Delivery]:
        """Several as they stand; those that are there."""
        ...

    async def history(self, job_id: str) -> History | None:
        """A delivery with its transitions, attempts and last response, all of one moment."""
        ...

    async def page(self, which: Filter, *, before: str | None, limit: int) -> list[Delivery]:
        """The newest that match, by job id, and only older ones than `before`."""
        ...

    async def depth(self, target: str) -> Depth:
        """What a target has in hand."""
        ...

    async def check(self) -> None:
        """See that the ledger can be written to, by a write."""
        ...

    async def identity(self) -> str:
        """The id that this ledger was given when its schema was made. Another ledger has another one; a backup that
        is restored has the same.
        """
        ...


class LedgerUpkeep(Protocol):
    """What recovery and retention ask for."""

    async def waiting(self, target: str, *, due_before_s: float, after: str | None, limit: int) -> list[Delivery]:
        """What waits (`queued|retrying`) and is due before then, in the order of job ids, behind `after`."""
        ...

    async def overrun(self, at_s: float, limit: int) -> list[Delivery]:
        """Attempts under way whose lease is over."""
        ...

    async def expired(self, at_s: float, limit: int) -> list[Delivery]:
        """What waits and whose deadline is over."""
        ...

    async def finished(self, target: str, status: Status, before_s: float, limit: int) -> list[Delivery]:
        """What was finished so before then, the oldest first."""
        ...

    async def blobs(self, job_ids: Sequence[str]) -> list[str]:
        """The names of what these deliveries keep in the blob store."""
        ...

    async def forget(self, job_ids: Sequence[str]) -> None:
        """Remove finished deliveries with all that belongs to them, keys included; what is not finished stays.
        Idempotent.
        """
        ...

    async def targets(self) -> list[str]:
        """Every target that has a delivery here, whether or not it is configured."""
        ...


class Sighting(Struct, frozen=True, kw_only=True):
    """Another ledger that keeps deliveries to a target of ours: which, and how long ago an instance that has it was
    seen; `live` while one is, and `senior` if it was there before ours.
    """

    target: str
    ledger_id: str
    seen_s: float
    live: bool
    senior: bool


class LedgerSightings(Protocol):
    """Which ledgers the instances on this Redis have, by target, by Redis' clock."""

    async def note(self, ledger_id: str, targets: Sequence[str]) -> list[Sighting]:
        """Say that an instance with this ledger has these targets; the other ledgers that were seen to have them."""
        ...


class AnyLedger(Ledger, LedgerReader, LedgerUpkeep, Protocol):
    """All that a ledger can do."""
