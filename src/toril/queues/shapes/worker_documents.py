"""The shapes of worker documents, which are checked field by field in BullMQ Proxy's words, and of what is shown of
workers. They are for the OpenAPI document alone; tests on a real server hold the answers to them.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from toril.bullmq.rules.job import Count


class WorkerEndpoint(Struct, forbid_unknown_fields=True):
    """The endpoint of a worker; `timeout` is in milliseconds, for the whole answer (0 is the default, 3000)."""

    url: str
    method: str
    headers: dict[str, str | float | bool] | None = None
    timeout: Count | None = None


class WorkerLimiter(Struct):
    """A rate limit: at most `max` jobs start per `duration` milliseconds, across all workers."""

    max: Count
    duration: Count


class WorkerKeep(Struct, forbid_unknown_fields=True):
    """How many finished jobs to keep, and for how many seconds; 0 keeps none."""

    count: Count | None = None
    age: Count | None = None


class WorkerGroup(Struct, forbid_unknown_fields=True):
    """What holds for each group of the queue that has no limits."""

    concurrency: Count | None = None
    limit: WorkerLimiter | bool | None = None


class WorkerOptions(Struct, forbid_unknown_fields=True):
    """A worker's options, as BullMQ spells them. `false` means not given; `true` is refused."""

    concurrency: Count | None = None
    removeOnComplete: WorkerKeep | bool | None = None  # noqa: N815
    removeOnFail: WorkerKeep | bool | None = None  # noqa: N815
    limiter: WorkerLimiter | bool | None = None
    maxStalledCount: Count | None = None  # noqa: N815
    group: WorkerGroup | bool | None = None


class WorkerSigning(Struct, forbid_unknown_fields=True):
    """One or two secrets that requests are signed with (Standard Webhooks)."""

    secrets: list[str]


class WorkerPolicy(Struct, forbid_unknown_fields=True):
    """How the answers of a worker are judged. Not part of BullMQ Proxy, which ignores it."""

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
    """One attempt: the outcome for the job, the status of the answer (null without one), when it began (ms).

    `outcome` is `completed`, `retried`, `failed`, `later`, `snoozed` or `dead_lettered`; newer instances of a fleet may
    have written others.
    """

    jobId: str  # noqa: N815
    outcome: str
    status: int | None
    durationMs: int  # noqa: N815
    at: int


class ShownWorker(Struct):
    """A registered worker, with the values of its headers hidden, and its last attempts, the newest first."""

    queue: str
    endpoint: WorkerEndpoint | None
    opts: WorkerOptions | None
    state: Literal["running", "paused", "invalid"]
    recent: list[ShownAttempt]
    reason: str | UnsetType = UNSET
