"""Jobs of any queue: added, read, changed, and heard of."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from toril.core.actions import Dependencies, RetryJob
from toril.core.event import Event, Position
from toril.core.flow import AddedJob, Depth, FlowJob, FlowTree
from toril.core.job import JobSpec
from toril.core.scheduler import SchedulerSpec, StoredScheduler
from toril.core.stored_job import Fields


class JobProducer(Protocol):
    """Adds jobs."""

    async def add(self, queue: str, jobs: Sequence[JobSpec], now_ms: int) -> list[bytes]:
        """Add jobs in order, several of them all or none. Not idempotent without custom ids.

        Returns their ids; of one that is dropped as a duplicate, that of the job which is there.
        """
        ...


Jobs = AsyncGenerator[list[tuple[bytes, Fields]], None]
"""Ids and hashes in pieces of about a megabyte, each read when it is asked for."""


class JobReader(Protocol):
    """Reads jobs; writes nothing."""

    async def get(self, queue: str, job_id: str) -> Fields | None:
        """The job's hash, or None."""
        ...

    async def page(
        self, queue: str, statuses: Sequence[str], start: int, length: int
    ) -> tuple[Mapping[str, int], Jobs]:
        """Counts by status, and the newest `length` jobs from `start` on of each status, one after another."""
        ...

    async def counts(self, queue: str, states: Sequence[str]) -> Mapping[str, int]:
        """How many jobs are in each of these states; `waiting` is not `paused`."""
        ...

    def jobs(self, queue: str, states: Sequence[str], window: tuple[int, int], *, oldest_first: bool) -> Jobs:
        """The jobs of some states, one state after another, from the first to the last of the window (inclusive)."""
        ...

    async def log_count(self, queue: str, job_id: str) -> int:
        """How many log lines a job has."""
        ...

    def logs(self, queue: str, job_id: str, start: int, end: int) -> AsyncGenerator[list[bytes], None]:
        """Log lines from `start` to `end` inclusive (negative from the end), oldest first, in pieces as jobs are."""
        ...

    async def lock_token(self, queue: str, job_id: str) -> bytes | None:
        """The token that holds the job's lock now, or None."""
        ...


class JobFinder(Protocol):
    """Tells which jobs there are."""

    async def missing(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        """Those of these ids that no job has."""
        ...

    async def held(self, queue: str, job_ids: Sequence[str]) -> list[str]:
        """Those of these ids whose job a worker holds the lock of."""
        ...


class Cancels(Protocol):
    """Takes jobs out of their queues."""

    async def cancel(self, queue: str, job_id: str) -> bool:
        """Remove a job whatever state it is in; False where there is none. A worker that has it breaks off."""
        ...


class JobReporter(Protocol):
    """What a worker reports of a job it holds. Whoever calls these has checked the lock token."""

    async def progress(self, queue: str, job_id: str, value: bytes) -> bool:
        """Store a JSON text as the progress and announce it; False when the job is gone."""
        ...

    async def log(self, queue: str, job_id: str, line: str) -> bool:
        """Append a log line, within the job's `keepLogs`; False when the job is gone."""
        ...


class JobControl(Protocol):
    """Reads and changes one job, as BullMQ's Job does. Raises `JobNotFound`, and `JobRefused` in the wrong state."""

    async def state(self, queue: str, job_id: str) -> str:
        """The state that a job is in, in BullMQ's words; `unknown` where there is no such job."""
        ...

    async def remove(self, queue: str, job_id: str, *, children: bool) -> None:
        """Remove the job, with its children if asked to."""
        ...

    async def retry(self, queue: str, job_id: str, asked: RetryJob) -> None:
        """Move a finished job back to waiting."""
        ...

    async def promote(self, queue: str, job_id: str) -> None:
        """Let a delayed job wait no longer."""
        ...

    async def update_data(self, queue: str, job_id: str, data: bytes) -> None:
        """Replace the job's data (JSON text)."""
        ...

    async def change_priority(self, queue: str, job_id: str, priority: int, *, lifo: bool) -> None:
        """Give the job another priority; it moves if it waits."""
        ...

    async def change_delay(self, queue: str, job_id: str, delay_ms: int) -> None:
        """Let a delayed job wait so long from now."""
        ...

    async def dependencies(self, queue: str, job_id: str) -> Dependencies:
        """What a flow's job waits for."""
        ...


class FlowStore(Protocol):
    """Adds and reads trees of jobs."""

    async def add(self, jobs: Sequence[FlowJob], now_ms: int) -> list[AddedJob]:
        """Add trees, all of them or none. The ids are as those of `JobProducer.add`."""
        ...

    async def read(self, queue: str, job_id: str, depth: Depth) -> FlowTree:
        """A job with what is below it. Raises `JobNotFound`."""
        ...


class SchedulerStore(Protocol):
    """Sets, reads and removes job schedulers."""

    async def put(self, queue: str, scheduler_id: str, spec: SchedulerSpec) -> None:
        """Set a scheduler, in place of the one that was, and produce its next job. Raises `InvalidRequest`."""
        ...

    async def get(self, queue: str, scheduler_id: str) -> StoredScheduler | None:
        """A scheduler; None where there is none."""
        ...

    async def all(self, queue: str, start: int, end: int) -> tuple[list[StoredScheduler], int]:
        """Schedulers from the first to the last (inclusive), the next to make a job first; and how many there are."""
        ...

    async def remove(self, queue: str, scheduler_id: str) -> bool:
        """Remove a scheduler and the job it has made for the next time; False where there is none."""
        ...


class EventFollower(Protocol):
    """A listener's place in the events of a queue."""

    @property
    def position(self) -> Position:
        """Behind which the next batch begins."""
        ...

    async def batch(self) -> list[Event]:
        """The next events, at least one; none when the instance shuts down."""
        ...


class EventFeed(Protocol):
    """The events of queues, from one reader however many listen."""

    def follow(self, queue: str, since: Position | None) -> AbstractAsyncContextManager[EventFollower]:
        """Listen, from now on or from behind a position; what is lost is announced by a `gap`."""
        ...

    def ending(self, queue: str, job_id: str) -> AbstractAsyncContextManager[Callable[[], Awaitable[Event | None]]]:
        """Waits for the event that ends a job, if it comes while the block lasts; None when the instance shuts down.

        A `gap` comes instead where events got lost, and that one may be among them: look, and wait again.
        """
        ...
