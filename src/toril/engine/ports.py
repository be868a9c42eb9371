"""What the engine needs of the rooms around it, as small Protocols.

Leases, markers, presence, notifications between instances, and outbound requests.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from toril.core.destination import OutboundRequest
from toril.core.lease import Lease, Next
from toril.core.outcome import Outcome
from toril.core.verdict import Complete, Fail, Retry, Snooze


class LeaseStore(Protocol):
    """Leases jobs of one queue and settles them. Each call is one atomic step in Redis."""

    async def take(self, token: bytes) -> Next:
        """Lease the next job under `token`. An id whose job has no hash is removed, and never leased."""
        ...

    async def complete(self, lease: Lease, verdict: Complete, *, fetch_next: bool) -> Next | None:
        """Move the job to completed, and lease the next one under the same token if asked to.

        Returns None when no next job was looked for, or there may be more than was looked at.

        Raises:
            LeaseLost: nothing was written, because the lock is not ours.
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
        """Give the job back to the head of the queue without spending an attempt; raises as `complete`."""
        ...

    async def count_stall(self, lease: Lease) -> bool:
        """Count that the worker which holds this job vanished while working on it; raises as `complete`.

        Returns True if the job has now stalled more often than its worker allows. The job stays leased. Idempotent:
        one lease counts once.
        """
        ...

    async def extend(self, leases: Sequence[Lease]) -> set[bytes]:
        """Renew the locks of these leases; return the ids of the jobs that are not ours.

        A lock that has lapsed is renewed too, unless another worker has begun its job since, or it has left the active
        ones. So a settlement that was refused for want of a lock can be tried again.
        """
        ...

    async def hand_over(self, lease: Lease, lock_ms: int) -> float | None:
        """Let the lock last for `lock_ms` from now, or as long as its holder has asked for meanwhile.

        Returns how many seconds that is, or None if the lock is not ours. `lock_ms` is stored as the length of the
        lease, which an extension without a length asks for again.
        """
        ...

    async def left_s(self, lease: Lease) -> float | None:
        """Return for how many seconds the lock still holds; None if it is not ours."""
        ...

    async def recover_stalled(self) -> list[bytes]:
        """Put jobs without a lock back to waiting (BullMQ's stalled check); return their ids."""
        ...

    async def recover_abandoned(self) -> tuple[list[bytes], float]:
        """Put jobs that are active without a lock back to waiting at once, seen by a stalled check before or not.

        Returns their ids, and for how many seconds the longest lock of the others holds: 0 where there are none. No job
        that has a lock is touched.
        """
        ...

    async def adopt(self, tokens: Iterable[bytes]) -> list[Lease]:
        """Find active jobs locked by these tokens: leases whose answer was lost with a connection."""
        ...

    async def schedule_next(self, lease: Lease) -> str | None:
        """Produce the next iteration of the job scheduler that this job came from. Idempotent.

        Returns None if that is done or there is none to produce. Otherwise returns why it is not possible for now: this
        job is then the only one that the scheduler can go on with, and must be kept.
        """
        ...


class SettlementConfirmations(Protocol):
    """Confirms settlements after they were made; the worker may be told of one that cannot be confirmed."""

    async def after(self, lease: Lease, settle: Callable[[], Awaitable[Next | None]]) -> Next | None:
        """Settle a lease, and return the result without waiting for its confirmation."""
        ...

    async def settled(self) -> None:
        """Return when nothing is left to be confirmed."""
        ...


class SettlementNotifications(Protocol):
    """Notifies instances that a job in one of their slots was settled by a call to another instance."""

    async def tell(self, instance: bytes, queue: str, job_id: bytes) -> None:
        """Notify an instance. The notification may get lost: its slot looks at the lock from time to time, too."""
        ...

    async def follow(self, heard: Callable[[str, bytes], None]) -> None:
        """Call `heard` with the queue and the id of each job that we are notified of, until cancelled."""
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
        """Leave a marker for the next one that waits, here or elsewhere: jobs wait now (0), or from `at_s` on."""
        ...

    def forget(self, queue: str) -> None:
        """Stop waiting for this queue, and free what is kept for it: it has no consumer here."""
        ...


class Presence(Protocol):
    """Shows BullMQ's `getWorkers` that a queue is being worked on."""

    def active(self, queue: str) -> None:
        """Show the queue: it had a job just now."""
        ...

    def gone(self, queue: str) -> None:
        """Stop showing the queue: it has no worker here."""
        ...


class OutboundPool(Protocol):
    """Connections to one destination."""

    async def send(self, request: OutboundRequest) -> Outcome:
        """Make one request and read the whole answer. Raises nothing but `CancelledError`."""
        ...

    def close(self) -> None:
        """Close idle connections; those in use end with their request."""
        ...


class Outbound(Protocol):
    """Makes pools; one per destination, so that none can use up another one's connections."""

    def pool(self, url: str) -> OutboundPool:
        """Return a pool for the origin of this URL. Opens nothing yet."""
        ...


class LeasedQueues(Protocol):
    """The queues with leases that no instance renews, known to the whole fleet."""

    async def note(self, queue: str, until_s: float) -> None:
        """Remember that this queue may have such leases until this time (wall clock)."""
        ...

    async def all(self) -> list[str]:
        """Return the queues that have such leases, or had them until a moment ago."""
        ...
