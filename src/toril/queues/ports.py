"""What the queues door needs of Redis, as small Protocols: registered workers, their attempts, leases over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from toril.core.destination import LeaseRules
from toril.core.lease import Lease
from toril.engine.ports import LeaseStore
from toril.queues.rules.attempt import Attempt


class RegistryState(Struct, frozen=True):
    """The state of the registry, by which a lost one is recognized.

    `mark` is made once for each registry, and is gone with it when Redis loses its data. `count` is the number of
    documents. `behind`: the newest announcement is older than one that was seen before.
    """

    mark: bytes
    count: int
    behind: bool


class WorkerRegistry(Protocol):
    """The fleet's registered workers: documents by queue name, shared with BullMQ Proxy instances."""

    async def put(self, queue: str, document: bytes) -> None:
        """Store a document and announce it, atomically. Idempotent apart from the announcement."""
        ...

    async def remove(self, queue: str) -> bool:
        """Remove a document and announce it, atomically; return False, announcing nothing, if there was none."""
        ...

    async def pause(self, queue: str, *, paused: bool) -> bool:
        """Pause or resume a worker in the whole fleet, and announce it, atomically. Idempotent.

        Touches neither the queue nor the document; a pause outlives a new document and ends with `remove`. Returns
        False, and writes nothing, if there is no such worker.
        """
        ...

    async def paused(self) -> set[str]:
        """Return the queues whose worker is paused."""
        ...

    async def all(self) -> dict[str, bytes]:
        """Return every document."""
        ...

    async def some(self, queues: Sequence[str]) -> dict[str, bytes]:
        """Return the documents of these queues, where they exist."""
        ...

    async def position(self) -> str:
        """Return the id of the newest announcement, to follow from there."""
        ...

    async def changed_since(self, position: str) -> tuple[str, list[str], bool]:
        """Wait a few seconds for announcements after `position`.

        Returns the new position, the queues that were announced, and whether announcements may have been trimmed
        unseen, so that all documents have to be compared.
        """
        ...

    async def state(self, seen: str | None) -> RegistryState:
        """Return the state of the registry; `seen` is the last position that was read, for `behind`."""
        ...

    async def put_back(self, documents: Mapping[str, bytes], paused: set[str], seen: str | None) -> list[str]:
        """Store documents that Redis has lost, and announce them.

        Leaves out the queues that have a document, whose worker a toril removed in the last ten minutes, or that an
        announcement after `seen` names. Returns the queues whose document was stored. Idempotent, and safe beside other
        instances that do the same.
        """
        ...


class RecentAttempts(Protocol):
    """The latest attempts of each registered worker, known to the whole fleet."""

    def note(self, queue: str, attempt: Attempt) -> None:
        """Remember an attempt. Cheap; other instances see it within two seconds."""
        ...

    async def recent(self, queue: str) -> list[bytes]:
        """Return the newest twenty as JSON, the newest first."""
        ...


class PullStore(LeaseStore, Protocol):
    """A `LeaseStore` for leases that are not renewed by an instance, and that are settled by their token."""

    @property
    def queue(self) -> str:
        """The queue whose jobs it leases."""
        ...

    @property
    def lock_ms(self) -> int:
        """The length of its leases, in milliseconds."""
        ...

    async def note_length(self, lease: Lease) -> None:
        """Store how long this lease is, for `held`. Idempotent; does nothing if the lock is not the lease's now."""
        ...

    async def held(self, job_id: bytes, token: bytes) -> Lease:
        """Return the lease of a job that this token holds.

        Raises:
            WrongLockToken: another token holds it.
            LeaseLost: no token holds it.
        """
        ...

    async def recover_lapsed(self, within_ms: int) -> list[bytes]:
        """Make the stalled check, at most once in `within_ms` fleet-wide; return the ids of the jobs that are back."""
        ...


class PullStores(Protocol):
    """Makes a `PullStore` for a queue."""

    def of(self, queue: str, rules: LeaseRules, lock_ms: int | None = None, worker: str | None = None) -> PullStore:
        """Return a store for leases of this length, taken by a worker of this name. Cheap: opens nothing."""
        ...
