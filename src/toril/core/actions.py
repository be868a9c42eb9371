"""What callers may ask of a queue as a whole and of one job, as typed requests, and what comes back.

The wire is ours (`POST /queues/{q}/clean` and so on), the words and values are BullMQ's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from toril.core.errors import InvalidRequest
from toril.core.job import MAX_PRIORITY, MAX_SAFE_INTEGER, Count, require_utf8

STATES = ("waiting", "paused", "active", "completed", "failed", "delayed", "prioritized", "waiting-children")
"""Where jobs can be."""

Positive = Annotated[int, Meta(ge=1, le=MAX_SAFE_INTEGER)]


class _Asked(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request; an empty one is all defaults."""


class Nothing(_Asked, frozen=True):
    """Of an action that takes no arguments."""


class Drain(_Asked, frozen=True):
    """Remove what waits; `delayed` jobs too if asked to."""

    delayed: bool = False


class Clean(_Asked, frozen=True):
    """Remove jobs of a state that are older than `grace` milliseconds, at most `limit` (0 is all)."""

    grace: Count = 0
    limit: Count = 0
    state: Literal[
        "completed", "failed", "waiting", "wait", "active", "paused", "delayed", "prioritized", "waiting-children"
    ] = "completed"

    @property
    def stored_state(self) -> str:
        """The state as BullMQ's keys have it."""
        return "wait" if self.state == "waiting" else self.state


class Obliterate(_Asked, frozen=True):
    """Remove the queue; with `force` also while jobs are active."""

    force: bool = False


class RetryJobs(_Asked, frozen=True):
    """Move finished jobs back to waiting: at most `count`, finished up to `timestamp` (milliseconds; now)."""

    state: Literal["failed", "completed"] = "failed"
    count: Positive | None = None
    timestamp: Count | None = None


class PromoteJobs(_Asked, frozen=True):
    """Move delayed jobs to waiting, at most `count`."""

    count: Positive | None = None


class TrimEvents(_Asked, frozen=True):
    """Keep the newest `maxLength` events of the queue."""

    maxLength: Count  # noqa: N815 - BullMQ's spelling


class RemoveOrphans(_Asked, frozen=True):
    """Remove jobs that are in no state, about `limit`; or, with `restore`, let those that have not ended wait again."""

    limit: Positive | None = None
    restore: bool = False


class Concurrency(_Asked, frozen=True):
    """How many jobs may be active at once, everywhere."""

    concurrency: Positive


class GlobalRateLimit(_Asked, frozen=True):
    """At most `max` jobs start per `duration` milliseconds, everywhere."""

    max: Positive
    duration: Positive


class Hold(_Asked, frozen=True):
    """Nothing starts for `ms` milliseconds."""

    ms: Positive


class RetryJob(_Asked, frozen=True):
    """Move this finished job back to waiting; its count of attempts made, or started, begins anew if asked to."""

    state: Literal["failed", "completed"] = "failed"
    resetAttemptsMade: bool = False  # noqa: N815 - BullMQ's spelling
    resetAttemptsStarted: bool = False  # noqa: N815


class ChangePriority(_Asked, frozen=True):
    """Give a job another priority (0 is none, and comes first); `lifo` puts it before its equals."""

    priority: Annotated[int, Meta(ge=0, lt=MAX_PRIORITY)] = 0
    lifo: bool = False


class ChangeDelay(_Asked, frozen=True):
    """Let a delayed job wait `delay` milliseconds from now."""

    delay: Count


Asked = TypeVar("Asked", bound=_Asked)


def read_action(body: bytes, kind: type[Asked]) -> Asked:
    """Read a body.

    Raises:
        InvalidRequest: naming the field that is not valid.
    """
    require_utf8(body)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise invalid(exc) from exc


def invalid(fault: Exception) -> InvalidRequest:
    """A decoder's complaint as ours: what is wrong, and the field, where it is one."""
    text, _, path = str(fault).partition(" - at `$")
    path = path.removesuffix("`").lstrip(".")
    field = path or None
    if "missing required field" in text or "unknown field" in text:
        missing = text.partition("`")[2].rstrip("`")
        field = f"{field}.{missing}" if field else missing
    return InvalidRequest(f"{text} (at {path})" if path else text, field=field)


_SPLIT = (
    "jobs wait in both `wait` and `paused`, as after a pause by BullMQ 5: resume the queue with toril, since BullMQ 5 "
    "would lose those in `wait`"
)


class QueueSummary(Struct, frozen=True):
    """A queue in a list of queues."""

    name: str
    counts: dict[str, int]
    paused: bool


class QueueState(Struct, frozen=True):
    """A queue as it is now. `split` says that jobs wait in two lists, which only a resume brings together."""

    name: str
    counts: dict[str, int]
    paused: bool
    concurrency: int | None
    rate_limit: dict[str, int] | None
    workers: list[dict[str, str]]
    oldest_waiting_age_ms: int | None
    split: bool

    def as_json(self) -> dict[str, Any]:
        """As callers see it."""
        shown: dict[str, Any] = {
            "name": self.name,
            "counts": self.counts,
            "paused": self.paused,
            "concurrency": self.concurrency,
            "rateLimit": self.rate_limit,
            "workers": self.workers,
            "oldestWaitingAge": self.oldest_waiting_age_ms,
        }
        if self.split:
            shown["warnings"] = [_SPLIT]
        return shown


class RateLimitState(Struct, frozen=True):
    """A queue's rate limit; nothing starts for `ttl_ms` from now."""

    limit: dict[str, int] | None
    ttl_ms: int


class Metrics(Struct, frozen=True):
    """BullMQ's metrics of one kind: a point per minute, the newest first; `count` is how many there are."""

    meta: dict[str, int]
    data: list[int]
    count: int


class Dependencies(Struct, frozen=True):
    """What a flow's job waits for: values (JSON texts) of children that are done, keys of those that are not."""

    processed: dict[str, bytes]
    unprocessed: list[str]
    ignored: dict[str, str]
    failed: list[str]
