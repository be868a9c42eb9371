"""Working on jobs: who works, what is leased, what wakes a consumer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from toril.core.attempt import Attempt
from toril.core.destinations.base import Destination, LeaseRules
from toril.core.lease import Lease, Next
from toril.core.ports.calls import OutboundPool
from toril.core.pull import Action, Ask
from toril.core.verdict import Complete, Fail, Retry, Snooze


class RegistryState(Struct, frozen=True):
    """What tells a registry from the one that was there before.

    `mark` is made once for each registry, and goes with it when Redis loses its data. `count` is how many documents
    there are. `behind`: the newest announcement is older than one that was seen before.
    """

    mark: bytes
    count: int
    behind: bool


class WorkerRegistry(Protocol):
    """The fleet's registered workers: documents by queue name, shared with BullMQ Proxy instances."""

    async def put(self, queue: str, document: bytes) -> None:
        """Store a document and announce it, atomically. Idempotent but for the announcement."""
        ...

    async def remove(self, queue: str) -> bool:
        """Remove a document and announce it, atomically; False (and nothing announced) when there was none."""
        ...

    async def pause(self, queue: str, *, paused: bool) -> bool:
        """Pause a worker, or let it go on, in the whole fleet, and announce it, atomically. Idempotent.

        Touches neither the queue nor the document; a pause outlives a new document and ends with `remove`. False (and
        nothing written) when there is no such worker.
        """
        ...

    async def paused(self) -> set[str]:
        """The queues whose worker is paused."""
        ...

    async def all(self) -> dict[str, bytes]:
        """Every document."""
        ...

    async def some(self, queues: Sequence[str]) -> dict[str, bytes]:
        """The documents of these queues, those that exist."""
        ...

    async def position(self) -> str:
        """The id of the newest announcement, to follow from."""
        ...

    async def changed_since(self, position: str) -> tuple[str, list[str], bool]:
        """Wait a few seconds for announcements after `position`.

        Returns the new position, the queues named, and whether some announcements may have been trimmed away
        unseen, so that only comparing everything tells.
        """
        ...

    async def state(self, seen: str | None) -> RegistryState:
        """What tells this registry from an earlier one; `seen` is the last position that was read of that."""
        ...

    async def put_back(self, documents: Mapping[str, bytes], paused: set[str], seen: str | None) -> list[str]:
        """Store documents that Redis has lost, and announce them.

        Leaves out the queues that have a document, whose worker a toril removed in the last ten minutes, or that an
        announcement after `seen` names. Returns the queues whose document was stored. Idempotent, and safe beside other
        instances that do the same.
        """
        ...


class WorkerChanges(Protocol):
    """What this process makes of the registered workers."""

    async def catch_up(self, queue: str) -> None:
        """Do now what is registered for this queue, without waiting for its announcement.

        Where its worker is gone, paused or another one, no job begins here for the one that was once this has returned.
        """
        ...


class RecentAttempts(Protocol):
    """The last attempts of each registered worker, known to the whole fleet."""

    def note(self, queue: str, attempt: Attempt) -> None:
        """Remember one. Costs nothing worth measuring; others see it within two seconds."""
        ...

    async def recent(self, queue: str) -> list[bytes]:
        """The newest twenty as JSON, the newest first."""
        ...


class LeaseStore(Protocol):
    """Leases jobs of one queue and settles them. Each call is one atomic step in Redis."""

    async def take(self, token: bytes) -> Next:
        """Lease the next job under `token`. An id whose job has no hash is removed, and never leased."""
        ...

    async def complete(self, lease: Lease, verdict: Complete, *, fetch_next: bool) -> Next | None:
        """Move the job to completed, and lease the next one under the same token if asked to.

        Returns None when no next job was looked for, or there may be more than was looked at.

        Raises:
            LeaseLost: nothing was written, the lock is not ours any more.
            JobRefused: the job cannot complete (it has pending or failed children); it is still ours.
        """
        ...

    async def retry(self, lease: Lease, verdict: Retry, *, fetch_next: bool) -> Next | None:
        """Move the job to waiting, or to delayed for `after_ms`; raises as `complete`."""
        ...

    async def fail(self, lease: Lease, verdict: Fail, *, fetch_next: bool) -> Next | None:
        """Move the job to failed; raises as `complete`."""
        ...

    async def snooze(self, lease: Lease, verdict: Snooze, *, fetch_next: bool) -> Next | None:
        """Move the job to delayed for `after_ms`, spending no attempt; raises as `complete`."""
        ...

    async def release(self, lease: Lease) -> None:
        """Give the job back to the head of the queue, spending no attempt; raises as `complete`."""
        ...

    async def count_stall(self, lease: Lease) -> bool:
        """Count that the worker which holds this job vanished while working on it; raises as `complete`.

        Returns True where the job has now stalled more often than its worker allows. The job stays leased. Idempotent:
        one lease counts once.
        """
        ...

    async def extend(self, leases: Sequence[Lease]) -> set[bytes]:
        """Renew the locks of these leases; returns the ids of the jobs whose lock is not ours any more."""
        ...

    async def hand_over(self, lease: Lease, lock_ms: int) -> float | None:
        """Let the lock last for `lock_ms` from now, or as long as its holder has asked for meanwhile.

        Returns how many seconds that is, or None when the lock is not ours any more. What `held` returns then has
        `lock_ms` as the lease's length.
        """
        ...

    async def left_s(self, lease: Lease) -> float | None:
        """For how long the lock holds yet; None when it is not ours any more."""
        ...

    async def recover_stalled(self) -> list[bytes]:
        """Put jobs without a lock back to waiting (BullMQ's stalled check); returns their ids."""
        ...

    async def recover_abandoned(self) -> tuple[list[bytes], float]:
        """Put jobs that are active without a lock back to waiting at once, seen by a stalled check before or not.

        Returns their ids, and for how many seconds the longest lock of the others holds: 0 where there are none. No job
        that has a lock is touched.
        """
        ...

    async def adopt(self, tokens: Iterable[bytes]) -> list[Lease]:
        """Find active jobs locked by these tokens: leases whose answer got lost with a connection."""
        ...

    async def schedule_next(self, lease: Lease) -> str | None:
        """Produce the next iteration of the job scheduler that this job came from. Idempotent.

        Returns None where that is done or there is none to produce, and otherwise why it is not possible for now: the
        scheduler then has only this job to go on with, which must be kept.
        """
        ...


class PullStore(LeaseStore, Protocol):
    """A `LeaseStore` for leases that are not renewed, and that are settled by their token."""

    @property
    def queue(self) -> str:
        """The queue whose jobs it leases."""
        ...

    @property
    def lock_ms(self) -> int:
        """How long its leases are."""
        ...

    async def note_length(self, lease: Lease) -> None:
        """Let `held` know how long this lease is. Idempotent; does nothing where the lock is not ours any more."""
        ...

    async def held(self, job_id: bytes, token: bytes) -> Lease:
        """The lease of a job that this token holds; raises `WrongLockToken`, or `LeaseLost` where none does."""
        ...

    async def recover_lapsed(self, within_ms: int) -> list[bytes]:
        """The stalled check, at most once `within_ms` fleet-wide; the ids of the jobs that are back."""
        ...


class PullStores(Protocol):
    """Makes a `PullStore` for a queue."""

    def of(self, queue: str, rules: LeaseRules, lock_ms: int | None = None, worker: str | None = None) -> PullStore:
        """Leases of this length, taken by a worker of this name. Cheap: opens nothing."""
        ...


class LeasedQueues(Protocol):
    """Which queues have leases that nobody renews, known to the whole fleet."""

    async def note(self, queue: str, until_s: float) -> None:
        """This queue may have such leases until this time (wall clock)."""
        ...

    async def all(self) -> list[str]:
        """The queues that have, or have had until a moment ago."""
        ...


class SettledNews(Protocol):
    """Tells instances of jobs of theirs that were settled by a call to another one."""

    async def tell(self, instance: bytes, queue: str, job_id: bytes) -> None:
        """Tell an instance. Nothing may come of it: whoever is told looks now and then all the same."""
        ...

    async def follow(self, heard: Callable[[str, bytes], None]) -> None:
        """Call this with the queue and the id of each job that we are told of, until cancelled."""
        ...


class MarkerWaits(Protocol):
    """Waits for work on all queues over a few blocking connections."""

    def watch(self, queue: str, wake: Callable[[float], None]) -> None:
        """Wait for this queue until something comes; then `wake(at_s)` is called once, from the event loop.

        `at_s` is 0 when a job waits now, else the wall-clock time of the earliest delayed job.
        """
        ...

    def unwatch(self, queue: str) -> None:
        """Stop waiting for this queue. Does nothing if it was not watched."""
        ...

    def put_back(self, queue: str, at_s: float) -> None:
        """Leave a marker for whoever waits next, here or elsewhere: jobs wait now (0), or from `at_s` on."""
        ...


class Presence(Protocol):
    """Shows BullMQ's `getWorkers` that a queue is being worked on."""

    def active(self, queue: str) -> None:
        """The queue had a job just now."""
        ...

    def gone(self, queue: str) -> None:
        """The queue has no worker here any more."""
        ...


class Seat(Protocol):
    """A worker's place at a queue, for as long as its socket lives."""

    def stop(self) -> None:
        """Lease no more; what it holds goes on."""
        ...

    async def done(self) -> None:
        """Wait until its last job has ended. Only for a seat that is leased nothing more."""
        ...

    async def leave(self, *, stalled: bool = False) -> None:
        """Lease no more; give the jobs it holds back to waiting, without spending an attempt.

        `stalled`: the worker vanished, which counts as a stall of each; a job that stalled too often fails.
        """
        ...


class Seats(Protocol):
    """Lets workers on sockets consume queues."""

    def join(self, destination: Destination, line: OutboundPool) -> Seat:
        """Begin to send jobs over this line, as many at once as the destination allows."""
        ...


class PullRequest(Protocol):
    """A request for jobs while it is served."""

    def hang_up(self) -> None:
        """Nobody waits for the answer any more: take no job."""
        ...


class Pulling(Protocol):
    """Leases jobs to workers that ask for them."""

    def begin(self, queue: str, ask: Ask) -> PullRequest:
        """A request for jobs, for `lease`."""
        ...

    async def lease(self, pull: Any) -> list[Lease]:
        """Jobs as soon as there is one; none when the time is over."""
        ...

    async def settle(self, queue: str, job_id: str, token: bytes, action: Action) -> None:
        """Do what the worker that holds this token says; raises `LeaseLost`, `WrongLockToken` and `JobRefused`."""
        ...
