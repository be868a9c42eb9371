"""The shapes of what comes and goes where no struct is decoded or encoded: answers that are spliced from stored JSON
(`toril.gateway.wire`), and documents that are checked field by field in BullMQ Proxy's words.

Only `toril.gateway.openapi` reads these; that answers keep to them is tested on a real server.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from toril.core.job import Count


class Job(Struct):
    """A job, as BullMQ's own `toJSON` has it. What is not stored is left out; times are milliseconds."""

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
    """Lines of a job's log, oldest first, and how many there are in all."""

    logs: list[str]
    count: int


class JobDependencies(Struct):
    """What a flow's job waits for: values of children that are done, keys of those that are not."""

    processed: dict[str, Any]
    unprocessed: list[str]
    ignored: dict[str, str]
    failed: list[str]


class ExpandedJob(Job):
    """A job, and what `expand` adds to it."""

    state: str | UnsetType = UNSET
    logs: JobLogs | UnsetType = UNSET
    dependencies: JobDependencies | UnsetType = UNSET


class JobPage(Struct):
    """A page of jobs, and how many there are by state."""

    counts: dict[str, int]
    jobs: list[Job]
    start: int
    length: int


class JobState(Struct):
    """The state that a job is in."""

    state: str


class Flow(Struct):
    """A job with its children."""

    job: Job
    children: list[Flow]


class QueueSummary(Struct):
    """A queue in a list."""

    name: str
    counts: dict[str, int]
    paused: bool


class QueueList(Struct):
    """Queues by name; `next_cursor` asks for those that follow, null at the end."""

    queues: list[QueueSummary]
    next_cursor: str | None


class QueueLimit(Struct):
    """At most `max` jobs start per `duration` milliseconds."""

    max: int
    duration: int


class Queue(Struct):
    """A queue as it is now; `oldestWaitingAge` in milliseconds."""

    name: str
    counts: dict[str, int]
    paused: bool
    concurrency: int | None
    rateLimit: QueueLimit | None  # noqa: N815
    workers: list[dict[str, str]]
    oldestWaitingAge: int | None  # noqa: N815
    warnings: list[str] | UnsetType = UNSET


class Removed(Struct):
    """How many jobs were removed."""

    removed: int


class Orphans(Struct):
    """How many jobs in no state were removed, or wait again."""

    removed: int
    restored: int | UnsetType = UNSET


class Cleaned(Struct):
    """How many jobs were removed, and which."""

    removed: int
    ids: list[str]


class Moved(Struct):
    """How many jobs were moved."""

    moved: int


class QueueConcurrency(Struct):
    """How many jobs may be active at once, everywhere; null is no limit."""

    concurrency: int | None


class QueueRateLimit(Struct):
    """A queue's rate limit; nothing starts for `ttl` milliseconds from now."""

    max: int | None
    duration: int | None
    ttl: int


class QueueMetricsMeta(Struct):
    """BullMQ's totals."""

    count: int
    prevTS: int  # noqa: N815
    prevCount: int  # noqa: N815


class QueueMetricsPoints(Struct):
    """A point per minute, the newest first; `count` is how many points there are."""

    meta: QueueMetricsMeta
    data: list[int]
    count: int


class QueueMetrics(Struct):
    """How many jobs completed and failed, as BullMQ counts them."""

    completed: QueueMetricsPoints
    failed: QueueMetricsPoints


class DeduplicationHolder(Struct):
    """The job that holds a deduplication key."""

    jobId: str  # noqa: N815


class Detached(Struct):
    """Whether a parent waited for the job."""

    detached: bool


class LeasedJob(Struct):
    """A job, and the lock token that settles it."""

    job: Job
    token: str


class LeasedJobs(Struct):
    """Jobs that are yours until their leases run out."""

    jobs: list[LeasedJob]


class SettleItem(Struct):
    """One job to settle, with what its action takes."""

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
    """What came of one: 204, or an error's status and code."""

    id: str | None
    status: int
    code: str | UnsetType = UNSET
    field: str | UnsetType = UNSET
    state: str | UnsetType = UNSET


class SettleResults(Struct):
    """What came of each, in the order asked."""

    results: list[SettleResult]


class SchedulerTemplate(Struct):
    """The jobs that a scheduler makes."""

    name: str
    data: Any
    opts: dict[str, Any]


class Scheduler(Struct):
    """A job scheduler; `next` is when it makes the next job, in milliseconds.

    `error` says why it cannot produce the next one. It keeps its job, which is delayed until that is mended.
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


class SchedulerPage(Struct):
    """Schedulers, the next to make a job first, and how many there are."""

    schedulers: list[Scheduler]
    count: int


class WorkerEndpoint(Struct, forbid_unknown_fields=True):
    """Where a worker's jobs are sent; `timeout` in milliseconds, for the whole answer (0 is the default, 3000)."""

    url: str
    method: str
    headers: dict[str, str | float | bool] | None = None
    timeout: Count | None = None


class WorkerLimiter(Struct):
    """At most `max` jobs start per `duration` milliseconds, counted in Redis across all workers."""

    max: Count
    duration: Count


class WorkerKeep(Struct, forbid_unknown_fields=True):
    """How many finished jobs stay, and for how many seconds; 0 is none of them."""

    count: Count | None = None
    age: Count | None = None


class WorkerOptions(Struct, forbid_unknown_fields=True):
    """A worker's options, as BullMQ spells them. `false` is as if the option were not there; `true` is refused."""

    concurrency: Count | None = None
    removeOnComplete: WorkerKeep | bool | None = None  # noqa: N815
    removeOnFail: WorkerKeep | bool | None = None  # noqa: N815
    limiter: WorkerLimiter | bool | None = None
    maxStalledCount: Count | None = None  # noqa: N815


class WorkerSigning(Struct, forbid_unknown_fields=True):
    """One or two secrets that requests are signed with (Standard Webhooks)."""

    secrets: list[str]


class WorkerPolicy(Struct, forbid_unknown_fields=True):
    """How a worker's answers are taken. Not part of BullMQ Proxy, which ignores it."""

    retry_on: list[int | str] | None = None
    fail_on: list[int | str] | None = None
    retry_after: bool | None = None
    max_retry_after_ms: Count | None = None
    signing: WorkerSigning | None = None


class Worker(Struct, forbid_unknown_fields=True):
    """An HTTP endpoint that works on a queue."""

    queue: str
    endpoint: WorkerEndpoint
    opts: WorkerOptions | bool | None = None
    policy: WorkerPolicy | None = None


class ShownAttempt(Struct):
    """One attempt: what became of the job, the answer's status (null where there was none), when it began (ms)."""

    jobId: str  # noqa: N815
    outcome: Literal["completed", "retried", "failed", "later"]
    status: int | None
    durationMs: int  # noqa: N815
    at: int


class ShownWorker(Struct):
    """A worker as it is registered, the values of its headers hidden, and its last attempts, the newest first."""

    queue: str
    endpoint: WorkerEndpoint | None
    opts: WorkerOptions | None
    state: Literal["running", "paused", "invalid"]
    recent: list[ShownAttempt]
    reason: str | UnsetType = UNSET


class LogText(Struct, forbid_unknown_fields=True):
    """A line for a job's log."""

    log: str


class Health(Struct):
    """The process answers."""

    status: Literal["ok"]
    version: str


class Ready(Struct):
    """Whether work moves, and what is in its way. `warnings` are for an operator, and take no traffic away."""

    status: Literal["ready", "not ready"]
    reasons: list[str] | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET


class Reloaded(Struct):
    """What a reload came to: how many different configurations this process has read, the keys that have changed now,
    those that need a restart and are not applied, and the secret files that are gone, whose last secrets still count.
    """

    config_generation: int
    applied: list[str]
    pending_rollout: list[str]
    secrets_kept: list[str]


class Problem(Struct):
    """What is wrong (RFC 9457). `code` is stable, `detail` is for people."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    field: str | UnsetType = UNSET
    state: str | UnsetType = UNSET
    failedReason: str | UnsetType = UNSET  # noqa: N815


class SocketAnswer(Struct):
    """The answer to a message with the same id: `data` has `ok`, or nothing; `err` says what went wrong."""

    id: Any
    data: dict[str, Any]
    err: dict[str, Any] | UnsetType = UNSET


class SocketEvent(Struct):
    """An event, and the arguments that BullMQ's QueueEvents calls its listeners with."""

    event: str
    args: list[Any]


class SocketEventMessage(Struct):
    """An event on a socket, numbered from 0."""

    id: int
    data: SocketEvent


class SocketWork(Struct):
    """`process` brings a job: its data, or with `payload=job` the whole job and its lock token."""

    type: Literal["process", "cancel", "drain", "pong"]
    payload: Any | UnsetType = UNSET
    reason: Literal["timeout", "lease_lost"] | UnsetType = UNSET


class SocketWorkMessage(Struct):
    """What a worker on a socket is sent."""

    data: SocketWork
    id: int | UnsetType | None = UNSET


class SocketReply(Struct):
    """What a worker on a socket says: a result or an error ends the job of that id, the others are reports."""

    result: Any | UnsetType = UNSET
    progress: Any | UnsetType = UNSET
    log: str | UnsetType = UNSET
    type: Literal["stop", "ping"] | UnsetType = UNSET


class SocketReplyMessage(Struct):
    """A worker's message. `err` is a text, or an object with `message`, `stack`, `unrecoverable` and `retryIn`."""

    id: int | UnsetType = UNSET
    data: SocketReply | UnsetType | None = UNSET
    err: str | dict[str, Any] | UnsetType = UNSET


class ProxyAccepted(Struct):
    """A request to the async proxy is a job now."""

    jobId: str  # noqa: N815 - proxq's spelling


class ProxyCancelled(Struct):
    """A job of the async proxy is cancelled, and gone."""

    status: Literal["cancelled"]
