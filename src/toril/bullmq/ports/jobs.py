"""What the doors use to add, read, change and follow jobs of any queue."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from toril.bullmq.rules.actions import Dependencies, RetryJob
from toril.bullmq.rules.event import Event, Position
from toril.bullmq.rules.flow import AddedJob, Depth, FlowJob, FlowTree
from toril.bullmq.rules.job import JobSpec
from toril.bullmq.rules.scheduler import SchedulerSpec, StoredScheduler
from toril.core.made_attempt import JobAttempt
from toril.core.stored_job import Fields


class JobProducer(Protocol):
    """A producer of jobs."""

    async def add(self, queue: str, jobs: Sequence[JobSpec], now_ms: int, *, again: bool = False) -> list[bytes]:
        """Add jobs in order, all or none; return their ids. Not idempotent without custom ids.

        The id of a job that is dropped as a duplicate is that of the existing job.
        Jobs that may have been added before (`again`) are not counted.
        """
        ...


Jobs = AsyncGenerator[list[tuple[bytes, Fields]], None]
"""Ids and hashes in pieces of about a megabyte, each read when it is asked for."""


class JobReader(Protocol):
    """A reader of jobs."""

    async def get(self, queue: str, job_id: str) -> Fields | None:
        """Return the fields of a job's hash; None if there is no such job."""
        ...

    async def attempts(self, queue: str, job_id: str) -> list[JobAttempt]:
        """Return the attempts of a job, the newest first. Raises `JobNotFound`."""
        ...

    async def page(
        self,
        queue: str,
        statuses: Sequence[str],
        start: int,
        length: int,
        *,
        oldest_first: bool = False,
        fields: Sequence[bytes] = (),
    ) -> tuple[Mapping[str, int], Jobs]:
        """Return counts by status, and `length` jobs from `start` on of each status, the newest first.

        With `fields` only these of their hashes are read; each job has to have one of them.
        """
        ...

    async def counts(self, queue: str, states: Sequence[str]) -> Mapping[str, int]:
        """Return how many jobs are in each of these states; `waiting` does not include `paused`."""
        ...

    def jobs(self, queue: str, states: Sequence[str], window: tuple[int, int], *, oldest_first: bool) -> Jobs:
        """Return the jobs of these states, one state after another, within the window (inclusive)."""
        ...

    async def log_count(self, queue: str, job_id: str) -> int:
        """Return how many log lines a job has."""
        ...

    def logs(self, queue: str, job_id: str, start: int, end: int) -> AsyncGenerator[list[bytes], None]:
        """Return the log lines from `start` to `end` (inclusive; negative from the end), oldest first, in pieces."""
        ...

    async def lock_token(self, queue: str, job_id: str) -> bytes | None:
        """Return the token of the job's lock; None if the job is not locked."""
        ...


class JobFinder(Protocol):
    """A reader of which jobs exist."""

    async def missing(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        """Return those of these ids that no job has."""
        ...

    async def held(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        """Return those of these ids whose jobs are locked by a worker."""
        ...


class Cancels(Protocol):
    """Removal of jobs in any state."""

    async def cancel(self, queue: str, job_id: str) -> bool:
        """Remove a job in any state; return False if there is none. A worker that works on it stops."""
        ...


class JobReporter(Protocol):
    """What a worker reports of its job. The caller has checked the lock token."""

    async def progress(self, queue: str, job_id: str, value: bytes) -> bool:
        """Store a JSON text as the progress and announce it; return False if the job is gone."""
        ...

    async def log(self, queue: str, job_id: str, line: str) -> bool:
        """Append a log line, within the job's `keepLogs`; return False if the job is gone."""
        ...


class JobControl(Protocol):
    """Reads and changes one job, as BullMQ's Job does. Raises `JobNotFound`, and `JobRefused` in the wrong state."""

    async def state(self, queue: str, job_id: str) -> str:
        """Return the state of a job by BullMQ's name; `unknown` if there is no such job."""
        ...

    async def remove(self, queue: str, job_id: str, *, children: bool) -> None:
        """Remove the job, and its children if `children` is True."""
        ...

    async def remove_listed(
        self, queue: str, state: str, job_ids: Sequence[str], part: tuple[int, int]
    ) -> list[bool | None]:
        """Remove waiting jobs that stand in one part of their list, with their children; the newest is at 0.

        Return for each whether it was removed; None where it is not in that part now.
        """
        ...

    async def retry(self, queue: str, job_id: str, asked: RetryJob) -> None:
        """Move a finished job back to waiting."""
        ...

    async def promote(self, queue: str, job_id: str) -> None:
        """Move a delayed job to waiting."""
        ...

    async def update_data(self, queue: str, job_id: str, data: bytes) -> None:
        """Replace the job's data (JSON text)."""
        ...

    async def change_priority(self, queue: str, job_id: str, priority: int, *, lifo: bool) -> None:
        """Change the priority of a job; a waiting job moves to its new place."""
        ...

    async def change_delay(self, queue: str, job_id: str, delay_ms: int) -> None:
        """Set the delay of a delayed job, from now on."""
        ...

    async def dependencies(self, queue: str, job_id: str) -> Dependencies:
        """Return what a job of a flow depends on."""
        ...


class FlowStore(Protocol):
    """A store of trees of jobs."""

    async def add(self, jobs: Sequence[FlowJob], now_ms: int) -> list[AddedJob]:
        """Add trees, all or none. Ids are as in `JobProducer.add`."""
        ...

    async def read(self, queue: str, job_id: str, depth: Depth) -> FlowTree:
        """Return a job with its descendants. Raises `JobNotFound`."""
        ...


class SchedulerStore(Protocol):
    """A store of job schedulers."""

    async def put(self, queue: str, scheduler_id: str, spec: SchedulerSpec) -> None:
        """Set or replace a scheduler, and produce its next job. Raises `InvalidRequest`."""
        ...

    async def get(self, queue: str, scheduler_id: str) -> StoredScheduler | None:
        """Return a scheduler; None if there is none."""
        ...

    async def all(self, queue: str, start: int, end: int) -> tuple[list[StoredScheduler], int]:
        """Return schedulers from the first to the last (inclusive), the next to make a job first; and their number."""
        ...

    async def soonest(self, queues: Sequence[str], most: int) -> tuple[list[tuple[str, str]], int]:
        """Return the queues and ids of those of all these queues that make a job next, and how many there are."""
        ...

    async def remove(self, queue: str, scheduler_id: str) -> bool:
        """Remove a scheduler and its next job; return False if there is none."""
        ...


class EventFollower(Protocol):
    """A listener's position in the events of a queue."""

    @property
    def position(self) -> Position:
        """The position after which the next batch begins."""
        ...

    async def batch(self) -> list[Event]:
        """Return the next events, at least one; an empty list when the instance shuts down."""
        ...


class EventFeed(Protocol):
    """The events of queues. All listeners share one reader."""

    def follow(self, queue: str, since: Position | None) -> AbstractAsyncContextManager[EventFollower]:
        """Listen, from now on or from after a position; a `gap` says that events were lost."""
        ...

    def ending(self, queue: str, job_id: str) -> AbstractAsyncContextManager[Callable[[], Awaitable[Event | None]]]:
        """Wait within the block for the event that ends a job; None when the instance shuts down.

        A `gap` comes when events were lost, of which that one may be one: read the job, and wait again.
        """
        ...
