"""The shapes of the queues door's answers: the OpenAPI document describes them, and the answers are encoded from them.

Jobs and schedulers are spliced from stored JSON instead, for speed (`toril.queues.job_json`); a test compares them with
these shapes.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from toril.bullmq.rules.actions import QueueLimit, QueueMetricsPoints, QueueSummary
from toril.bullmq.rules.job import Count


class Job(Struct):
    """A job as BullMQ's `toJSON` shows it. Fields that are not stored are left out; times are in milliseconds."""

    name: str
    data: Any
    opts: dict[str, Any]
    id: str
    progress: Any
    returnvalue: Any
    stacktrace: Any
    delay: int
    priority: int
    attemptsStarted: int  # noqa: N815 - BullMQ's spelling, here and below
    attemptsMade: int  # noqa: N815
    stalledCounter: int  # noqa: N815
    timestamp: int
    queueQualifiedName: str  # noqa: N815
    processedOn: int | UnsetType = UNSET  # noqa: N815
    finishedOn: int | UnsetType = UNSET  # noqa: N815
    failedReason: str | UnsetType = UNSET  # noqa: N815
    deduplicationId: str | UnsetType = UNSET  # noqa: N815
    repeatJobKey: str | UnsetType = UNSET  # noqa: N815
    nextRepeatableJobId: str | UnsetType = UNSET  # noqa: N815
    processedBy: str | UnsetType = UNSET  # noqa: N815
    deferredFailure: str | UnsetType = UNSET  # noqa: N815
    parentKey: str | UnsetType = UNSET  # noqa: N815
    parent: Any | UnsetType = UNSET


class JobLogs(Struct):
    """Log lines of a job, the oldest first, and the number of all lines."""

    logs: list[str]
    count: int


class JobDependencies(Struct):
    """The children of a job: return values of those that are done, keys of those that are not."""

    processed: dict[str, Any]
    unprocessed: list[str]
    ignored: dict[str, str]
    failed: list[str]


class ExpandedJob(Job):
    """A job with the parts that `expand` adds."""

    state: str | UnsetType = UNSET
    logs: JobLogs | UnsetType = UNSET
    dependencies: JobDependencies | UnsetType = UNSET


class JobPage(Struct):
    """A page of jobs, and the number of jobs by state."""

    counts: dict[str, int]
    jobs: list[Job]
    start: int
    length: int


class FoundJobs(Struct):
    """Jobs that a search found among `scanned` of `total` jobs; `next_cursor` continues it, null at the end."""

    jobs: list[Job]
    scanned: int
    total: int
    next_cursor: str | None


class RefusedJob(Struct):
    """A job that was not changed, and the code of the reason."""

    id: str
    code: str


class BulkDone(Struct):
    """How many jobs matched, how many were changed (in a dry run: would be), and how many were refused."""

    matched: int
    done: int
    refused: int
    failed: list[RefusedJob]


class JobCopy(Struct):
    """The name, data and options that a copy has instead of the original's; options as for a new job."""

    name: str | UnsetType = UNSET
    data: Any = UNSET
    opts: dict[str, Any] | UnsetType = UNSET


class JobState(Struct):
    """The state of a job."""

    state: str


class Flow(Struct):
    """A job with its children."""

    job: Job
    children: list[Flow]


class QueueList(Struct):
    """Queues by name; `next_cursor` asks for the next page, null at the end."""

    queues: list[QueueSummary]
    next_cursor: str | None


class Queue(Struct):
    """The current state of a queue; `oldestWaitingAge` is in milliseconds.

    `pausedSince` is in milliseconds, null where it is not paused, or the time is not known. `workers` are the named
    connections of `getWorkers`; those with `presence` are toril's own, and work on nothing.
    """

    name: str
    counts: dict[str, int]
    paused: bool
    pausedSince: int | None  # noqa: N815
    concurrency: int | None
    rateLimit: QueueLimit | None  # noqa: N815
    workers: list[dict[str, str]]
    oldestWaitingAge: int | None  # noqa: N815
    warnings: list[str] | UnsetType = UNSET


class Removed(Struct):
    """How many jobs were removed."""

    removed: int


class Orphans(Struct):
    """How many orphaned jobs were removed, or put back to waiting."""

    removed: int
    restored: int | UnsetType = UNSET


class Cleaned(Struct):
    """How many jobs were removed, and their ids."""

    removed: int
    ids: list[str]


class Moved(Struct):
    """How many jobs were moved."""

    moved: int


class QueueConcurrency(Struct):
    """How many jobs may be active at once across all workers; null is no limit."""

    concurrency: int | None


class QueueRateLimit(Struct):
    """The rate limit of a queue; no job starts for `ttl` milliseconds from now."""

    max: int | None
    duration: int | None
    ttl: int


class QueueMetrics(Struct):
    """How many jobs completed and failed, as BullMQ counts them."""

    completed: QueueMetricsPoints
    failed: QueueMetricsPoints


class DeduplicationHolder(Struct):
    """The job that holds a deduplication key."""

    jobId: str  # noqa: N815


class Detached(Struct):
    """`detached` is true if a parent waited for the job."""

    detached: bool


class HeldJob(Job, kw_only=True):
    """A job that a worker holds, with its lock token."""

    token: str


class LeasedJob(Struct):
    """A job and its lock token. `trace` is the context that its worker continues, by header."""

    job: HeldJob
    token: str
    trace: dict[str, str] | UnsetType = UNSET


class LeasedJobs(Struct):
    """Leased jobs."""

    jobs: list[LeasedJob]


class SettleItem(Struct):
    """One job to settle: its lock token, the action, and the arguments of the action."""

    id: str
    token: str
    action: Literal["complete", "fail", "extend", "release"]
    returnvalue: Any | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    unrecoverable: bool | UnsetType = UNSET
    retry_in_ms: Count | UnsetType | None = UNSET
    lock_ms: Count | UnsetType = UNSET


class SettleBatch(Struct, forbid_unknown_fields=True):
    """Several jobs to settle."""

    jobs: list[SettleItem]


class SettleResult(Struct):
    """The result for one job: 204, or the status and code of an error."""

    id: str | None
    status: int
    code: str | UnsetType = UNSET
    field: str | UnsetType = UNSET
    state: str | UnsetType = UNSET


class SettleResults(Struct):
    """The result for each job, in the order of the request."""

    results: list[SettleResult]


class SchedulerTemplate(Struct):
    """The jobs that a scheduler makes."""

    name: str
    data: Any
    opts: dict[str, Any]


class Scheduler(Struct):
    """A job scheduler; `next` is when it makes its next job, in milliseconds.

    `error` says why it cannot produce its next job. Until that is repaired, it keeps its current job, delayed.
    """

    id: str
    template: SchedulerTemplate
    next: int
    iterationCount: int  # noqa: N815
    pattern: str | UnsetType = UNSET
    tz: str | UnsetType = UNSET
    every: int | UnsetType = UNSET
    limit: int | UnsetType = UNSET
    startDate: int | UnsetType = UNSET  # noqa: N815
    endDate: int | UnsetType = UNSET  # noqa: N815
    offset: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    nextTimes: list[int] | UnsetType = UNSET  # noqa: N815


class SchedulerOfQueue(Scheduler, kw_only=True):
    """A job scheduler with its queue."""

    queue: str


class SchedulersOfQueues(Struct):
    """Schedulers of several queues, the next to make a job first, and the number of all schedulers."""

    schedulers: list[SchedulerOfQueue]
    count: int


class SchedulerPage(Struct):
    """Schedulers, the next to make a job first, and the number of all schedulers."""

    schedulers: list[Scheduler]
    count: int


class LogText(Struct, forbid_unknown_fields=True):
    """A line for a job's log."""

    log: str
