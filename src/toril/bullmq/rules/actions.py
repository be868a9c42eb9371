"""The arguments of actions on a queue or a job, and their results.

The routes are toril's (`POST /queues/{q}/clean` and so on), the names and values are BullMQ's.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from toril.bullmq.rules.groups import MAX_WEIGHT, GroupLimits
from toril.bullmq.rules.job import MAX_PRIORITY, Count
from toril.bullmq.rules.json_values import require_utf8
from toril.core.errors import InvalidRequest
from toril.core.group_limits import GroupRate
from toril.core.integers import MAX_SAFE_INTEGER

STATES = ("waiting", "paused", "active", "completed", "failed", "delayed", "prioritized", "waiting-children")
"""The states of jobs."""

State = Literal["waiting", "paused", "active", "completed", "failed", "delayed", "prioritized", "waiting-children"]

Positive = Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)]


class _Arguments(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request; an empty one means all defaults."""


class Nothing(_Arguments, frozen=True):
    """The arguments of an action that takes none."""


class Drain(_Arguments, frozen=True):
    """Remove waiting jobs, and with `delayed` the delayed ones."""

    delayed: bool = False


class Clean(_Arguments, frozen=True):
    """Remove jobs of a state that are older than `grace` milliseconds, at most `limit` (0: all)."""

    grace: Count = 0
    limit: Count = 0
    state: Literal[
        "completed", "failed", "waiting", "wait", "active", "paused", "delayed", "prioritized", "waiting-children"
    ] = "completed"

    @property
    def stored_state(self) -> str:
        """The state by the name of its key."""
        return "wait" if self.state == "waiting" else self.state


class Obliterate(_Arguments, frozen=True):
    """Remove the queue; with `force` also while jobs are active."""

    force: bool = False


class RetryJobs(_Arguments, frozen=True):
    """Move at most `count` finished jobs back to waiting that ended by `timestamp` (milliseconds; by default now)."""

    state: Literal["failed", "completed"] = "failed"
    count: Positive | None = None
    timestamp: Count | None = None


class PromoteJobs(_Arguments, frozen=True):
    """Move at most `count` delayed jobs to waiting."""

    count: Positive | None = None


class TrimEvents(_Arguments, frozen=True):
    """Keep the newest `maxLength` events of the queue."""

    maxLength: Count  # noqa: N815 - BullMQ's spelling


class RemoveOrphans(_Arguments, frozen=True):
    """Remove about `limit` jobs that are in no state; with `restore`, put those that have not ended back to waiting."""

    limit: Positive | None = None
    restore: bool = False


class Concurrency(_Arguments, frozen=True):
    """How many jobs may be active at once across all workers."""

    concurrency: Positive


class GlobalRateLimit(_Arguments, frozen=True):
    """At most `max` jobs start per `duration` milliseconds across all workers."""

    max: Positive
    duration: Positive


class Hold(_Arguments, frozen=True):
    """No job starts for `ms` milliseconds."""

    ms: Positive


class GroupRateLimit(_Arguments, frozen=True):
    """At most `max` jobs of a group start per `duration` milliseconds."""

    max: Positive
    duration: Positive


class GroupChange(_Arguments, frozen=True):
    """The limits of a group, in place of those that it has. Its pause changes only where `paused` is given.

    `weight` is its share beside others. With `max_waiting` waiting jobs, no more are added to it.
    """

    concurrency: Positive | None = None
    limit: GroupRateLimit | None = None
    weight: Annotated[int, Meta(ge=1, le=MAX_WEIGHT)] | None = None
    max_waiting: Positive | None = None
    paused: bool | None = None

    def limits(self) -> GroupLimits:
        """Return the limits, without the pause."""
        limit = None if self.limit is None else GroupRate(self.limit.max, self.limit.duration)
        return GroupLimits(self.concurrency, limit, self.weight, self.max_waiting)


class RetryJob(_Arguments, frozen=True):
    """Move a finished job back to waiting; reset its count of attempts made, or of attempts started, if asked to."""

    state: Literal["failed", "completed"] = "failed"
    resetAttemptsMade: bool = False  # noqa: N815 - BullMQ's spelling
    resetAttemptsStarted: bool = False  # noqa: N815


class ChangePriority(_Arguments, frozen=True):
    """Change the priority of a job (0 is none, and comes first); `lifo` puts it before jobs of the same priority."""

    priority: Annotated[int, Meta(ge=0, lt=MAX_PRIORITY)] = 0
    lifo: bool = False


class ChangeDelay(_Arguments, frozen=True):
    """Set the delay of a delayed job to `delay` milliseconds from now."""

    delay: Count


class Bulk(_Arguments, frozen=True):
    """Retry, promote, remove or delay jobs: those with these `ids`, or those in `states` (all by default) that `where`
    fits, all jobs by default. `delay` lets delayed jobs wait `delay_ms` milliseconds from now. With `dry_run`
    nothing is done.
    """

    action: Literal["retry", "promote", "remove", "delay"]
    ids: list[str] | None = None
    where: str | None = None
    states: list[State] | None = None
    delay_ms: Count | None = None
    dry_run: bool = False


Arguments = TypeVar("Arguments", bound=_Arguments)


def read_action(body: bytes, kind: type[Arguments]) -> Arguments:
    """Return the arguments in a body.

    Raises:
        InvalidRequest: naming the field that is not valid.
    """
    require_utf8(body)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise invalid(exc) from exc


def invalid(fault: Exception) -> InvalidRequest:
    """Return a decoder's error as an `InvalidRequest`, with the field if one is at fault."""
    text, _, path = str(fault).partition(" - at `$")
    path = path.removesuffix("`").lstrip(".")
    field = path or None
    if "missing required field" in text or "unknown field" in text:
        missing = text.partition("`")[2].rstrip("`")
        field = f"{field}.{missing}" if field else missing
    return InvalidRequest(f"{text} (at {path})" if path else text, field=field)


class QueueSummary(Struct, frozen=True):
    """A queue in a list: its name, how many jobs it has by state, and whether it is paused."""

    name: str
    counts: dict[str, int]
    paused: bool


class QueueLimit(Struct, frozen=True):
    """At most `max` jobs start per `duration` milliseconds."""

    max: int
    duration: int


class QueueState(Struct, frozen=True):
    """The current state of a queue. `split` is True if jobs wait in two lists, which only a resume unites."""

    name: str
    counts: dict[str, int]
    paused: bool
    concurrency: int | None
    rate_limit: QueueLimit | None
    workers: list[dict[str, str]]
    oldest_waiting_age_ms: int | None
    split: bool
    paused_since_ms: int | None = None


class RateLimitState(Struct, frozen=True):
    """A queue's rate limit; no job starts for `ttl_ms` from now."""

    limit: QueueLimit | None
    ttl_ms: int


class QueueMetricsMeta(Struct, frozen=True):
    """BullMQ's totals."""

    count: int
    prevTS: int  # noqa: N815 - BullMQ's spelling
    prevCount: int  # noqa: N815


class QueueMetricsPoints(Struct, frozen=True):
    """A point per minute, the newest first; `count` is the number of points."""

    meta: QueueMetricsMeta
    data: list[int]
    count: int


class Dependencies(Struct, frozen=True):
    """The children of a flow's job: return values (JSON texts) of completed ones, keys of those that have not ended."""

    processed: dict[str, bytes]
    unprocessed: list[str]
    ignored: dict[str, str]
    failed: list[str]
