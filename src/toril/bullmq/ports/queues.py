"""What the doors use to list, control and maintain whole queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from toril.bullmq.rules.actions import QueueMetricsPoints, QueueState, QueueSummary, RateLimitState


class QueueHolds(Protocol):
    """Holds: for a while no job of a queue starts."""

    async def hold(self, queue: str, for_ms: int) -> None:
        """Start no job for `for_ms` from now. Idempotent: of several holds the one that ends last counts."""
        ...

    async def let_go(self, queue: str) -> None:
        """End a hold, and reset the count of a rate limit. Idempotent."""
        ...


class QueueNames(Protocol):
    """The names of all queues, and of some that were removed."""

    async def page(self, after: str, most: int) -> list[str]:
        """Return the names after this one, in order, at most `most`; fewer if there are no more."""
        ...


class QueueControl(Protocol):
    """Reads and changes a queue as a whole, as BullMQ's Queue does."""

    async def summaries(self, queues: Sequence[str]) -> list[QueueSummary]:
        """Return those of these queues that exist, in their order, with their counts and whether they are paused."""
        ...

    async def exists(self, queue: str) -> bool:
        """Return True once the queue has been used."""
        ...

    async def describe(self, queue: str) -> QueueState:
        """Return the current state of the queue."""
        ...

    async def paused(self, queue: str) -> bool:
        """Return True if the queue is paused."""
        ...

    async def paused_since_ms(self, queue: str) -> int | None:
        """Return since when the queue is paused (wall clock); None where it is not, or that is not known."""
        ...

    async def drain(self, queue: str, *, delayed: bool) -> int:
        """Remove all waiting jobs, and with `delayed` the delayed ones; return how many were removed."""
        ...

    async def clean(self, queue: str, state: str, grace_ms: int, limit: int) -> list[bytes]:
        """Remove jobs of a state that are older than `grace_ms`, at most `limit` (0: all); return their ids."""
        ...

    async def obliterate(self, queue: str, *, force: bool) -> int:
        """Remove the queue with all its jobs; return how many it had. Raises `JobRefused` if jobs are active."""
        ...

    async def retry(self, queue: str, state: str, most: int | None, before_ms: int | None) -> int:
        """Move finished jobs back to waiting, the oldest first; return how many."""
        ...

    async def promote(self, queue: str, most: int | None) -> int:
        """Move delayed jobs to waiting; return how many."""
        ...

    async def concurrency(self, queue: str) -> int | None:
        """Return how many jobs of this queue may be active at once across all workers; None without a limit."""
        ...

    async def set_concurrency(self, queue: str, most: int | None) -> None:
        """Set how many jobs may be active at once; None removes the limit."""
        ...

    async def rate_limit(self, queue: str) -> RateLimitState:
        """Return the queue's rate limit, and for how long no job starts now."""
        ...

    async def set_rate_limit(self, queue: str, limit: tuple[int, int] | None) -> None:
        """Set how many jobs may start per how many milliseconds across all workers; None removes the limit."""
        ...

    async def hold(self, queue: str, for_ms: int) -> None:
        """Start no job for `for_ms` from now."""
        ...

    async def let_go(self, queue: str) -> None:
        """End a hold, and reset the count of a rate limit."""
        ...

    async def metrics(self, queue: str, kind: str, start: int, end: int) -> QueueMetricsPoints:
        """Return how many jobs completed or failed, in total and per minute."""
        ...

    async def pause(self, queue: str) -> None:
        """Pause the queue: no worker takes jobs. Idempotent."""
        ...

    async def resume(self, queue: str) -> None:
        """Resume the queue: workers take jobs again. Idempotent."""
        ...

    async def workers(self, queue: str) -> list[dict[str, str]]:
        """Return the connections that BullMQ knows as workers of this queue, as `CLIENT LIST` shows them."""
        ...


class QueueMaintenance(Protocol):
    """Maintenance of queues and jobs. Methods that name a job raise `JobNotFound`."""

    async def counts_per_priority(self, queue: str, priorities: Sequence[int]) -> list[int]:
        """Return how many jobs wait with each of these priorities; priority 0 means none."""
        ...

    async def deduplicated(self, queue: str, key: str) -> bytes | None:
        """Return the id of the job that holds a deduplication key; None if no job does."""
        ...

    async def forget_deduplication(self, queue: str, key: str) -> bool:
        """Remove a deduplication key; return False if there is none."""
        ...

    async def trim_events(self, queue: str, most: int) -> int:
        """Keep the newest `most` events; return how many were removed."""
        ...

    async def remove_orphans(self, queue: str, most: int | None) -> int:
        """Remove about `most` jobs that are in no state; return how many. Not atomic, and idempotent."""
        ...

    async def restore_orphans(self, queue: str, most: int | None) -> int:
        """Put about `most` jobs that are in no state and have not ended back to waiting; return how many.

        Not atomic, and idempotent.
        """
        ...

    async def clear_logs(self, queue: str, job_id: str, keep: int) -> None:
        """Remove all log lines of a job but the newest `keep`."""
        ...

    async def remove_children(self, queue: str, job_id: str) -> None:
        """Remove those children of a job that have not been processed yet."""
        ...

    async def detach(self, queue: str, job_id: str) -> bool:
        """Remove a job from its parent's dependencies; return False if no parent waits for it."""
        ...
