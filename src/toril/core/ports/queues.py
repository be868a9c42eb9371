"""Queues as a whole: looked at, controlled, and kept in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from toril.core.actions import Metrics, QueueState, QueueSummary, RateLimitState


class QueueHolds(Protocol):
    """Keeps workers from taking a queue's jobs for a while."""

    async def hold(self, queue: str, for_ms: int) -> None:
        """Nothing starts for so long, from now on. Idempotent: the last hold counts."""
        ...

    async def let_go(self, queue: str) -> None:
        """End a hold, and what a rate limit has counted so far. Idempotent."""
        ...


class QueueNames(Protocol):
    """The names of all queues that there are, and of some that are gone."""

    async def page(self, after: str, most: int) -> list[str]:
        """Return the next names behind this one, in order, `most` at most: fewer where there are no more."""
        ...


class QueueControl(Protocol):
    """Reads and changes a queue as a whole, as BullMQ's Queue does."""

    async def summaries(self, queues: Sequence[str]) -> list[QueueSummary]:
        """Return those of these queues that are there, as they are now, in their order."""
        ...

    async def exists(self, queue: str) -> bool:
        """Whether anybody has ever used this queue."""
        ...

    async def describe(self, queue: str) -> QueueState:
        """The queue as it is now."""
        ...

    async def paused(self, queue: str) -> bool:
        """Whether the queue is paused."""
        ...

    async def drain(self, queue: str, *, delayed: bool) -> int:
        """Remove all jobs that wait, and with `delayed` those that are delayed; how many those were."""
        ...

    async def clean(self, queue: str, state: str, grace_ms: int, limit: int) -> list[bytes]:
        """Remove jobs of a state that are older than `grace_ms`, `limit` at most (0 is all); their ids."""
        ...

    async def obliterate(self, queue: str, *, force: bool) -> int:
        """Remove the queue with all its jobs; how many those were. Raises `JobRefused`: jobs are active."""
        ...

    async def retry(self, queue: str, state: str, most: int | None, before_ms: int | None) -> int:
        """Move finished jobs back to waiting, the oldest first; how many."""
        ...

    async def promote(self, queue: str, most: int | None) -> int:
        """Move delayed jobs to waiting; how many."""
        ...

    async def concurrency(self, queue: str) -> int | None:
        """How many jobs of this queue may be active at once, everywhere."""
        ...

    async def set_concurrency(self, queue: str, most: int | None) -> None:
        """Set or (None) remove that."""
        ...

    async def rate_limit(self, queue: str) -> RateLimitState:
        """The queue's own rate limit, and for how long nothing starts now."""
        ...

    async def set_rate_limit(self, queue: str, limit: tuple[int, int] | None) -> None:
        """At most so many jobs start per so many milliseconds, everywhere; None removes that."""
        ...

    async def hold(self, queue: str, for_ms: int) -> None:
        """Nothing starts for so long, from now on."""
        ...

    async def let_go(self, queue: str) -> None:
        """End a hold, and what a rate limit has counted so far."""
        ...

    async def metrics(self, queue: str, kind: str, start: int, end: int) -> Metrics:
        """How many jobs completed or failed, in all and per minute."""
        ...

    async def pause(self, queue: str) -> None:
        """No worker anywhere takes jobs of this queue any more. Idempotent."""
        ...

    async def resume(self, queue: str) -> None:
        """Workers take jobs again. Idempotent."""
        ...

    async def workers(self, queue: str) -> list[dict[str, str]]:
        """The connections that BullMQ knows as workers of this queue, as `CLIENT LIST` tells of them."""
        ...


class QueueUpkeep(Protocol):
    """What BullMQ's Queue and Job offer beside the daily work. What names a job raises `JobNotFound`."""

    async def counts_per_priority(self, queue: str, priorities: Sequence[int]) -> list[int]:
        """How many jobs wait with each of these priorities; 0 is none."""
        ...

    async def deduplicated(self, queue: str, key: str) -> bytes | None:
        """The id of the job that holds a deduplication key."""
        ...

    async def forget_deduplication(self, queue: str, key: str) -> bool:
        """Remove a deduplication key; False where there is none."""
        ...

    async def trim_events(self, queue: str, most: int) -> int:
        """Keep so many of the newest events; how many are gone."""
        ...

    async def remove_orphans(self, queue: str, most: int | None) -> int:
        """Remove jobs that are in no state, about `most`; how many those were. Not atomic, and idempotent."""
        ...

    async def restore_orphans(self, queue: str, most: int | None) -> int:
        """Let jobs wait again that are in no state and have not ended, about `most`; how many. As idempotent."""
        ...

    async def clear_logs(self, queue: str, job_id: str, keep: int) -> None:
        """Remove a job's log lines but the newest `keep`."""
        ...

    async def remove_children(self, queue: str, job_id: str) -> None:
        """Remove the children of a job that nobody has begun with."""
        ...

    async def detach(self, queue: str, job_id: str) -> bool:
        """Let a job's parent wait for it no longer; False where none does."""
        ...
