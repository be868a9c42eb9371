"""A job as a caller posts it: its shape, BullMQ Proxy's validation, and its stored form.

`toril.bullmq.rules.job_decoding` reads jobs from a body, and `toril.bullmq.rules.job_faults` explains what is wrong
with one.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from toril.bullmq.rules.groups import GroupOption, check_group
from toril.bullmq.rules.json_values import whole_if_whole
from toril.core.errors import InvalidRequest
from toril.core.integers import MAX_SAFE_INTEGER

MAX_PRIORITY = 2**21
MAX_ID = 4096
"""Characters of an id. BullMQ takes any number; but an id is repeated in lists, streams and logs."""
NO_CONTROL = r"\A[^\x00-\x1f\x7f]+\Z"
NO_OPTIONS = b'{"attempts":0}'
ON_FAILURE = (
    "removeDependencyOnFailure", "failParentOnFailure", "continueParentOnFailure", "ignoreDependencyOnFailure",
)  # fmt: skip
"""What the failure of a job may do to its parent."""

Name = Annotated[str, Meta(pattern=NO_CONTROL)]
Count = Annotated[int, Meta(ge=0, le=MAX_SAFE_INTEGER)]
# Flat, since BullMQ's scripts encode options with cjson and cmsgpack, which fail at a nesting limit
# after they have begun to write.
Number = Annotated[float, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
Whole = Annotated[int, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
KeepOption = bool | Whole | Number | str | dict[str, bool | Whole | Number | str | None] | None
Delay = Annotated[float, Meta(ge=0, le=MAX_SAFE_INTEGER)]


class BackoffOption(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """BullMQ's backoff of a job: `delay` in milliseconds, of which the fraction `jitter` is random."""

    type: str
    delay: Delay | UnsetType = UNSET
    jitter: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET


class DeduplicationOption(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """BullMQ's deduplication: later jobs with this id are dropped, for `ttl` milliseconds or until the job ends.

    With `extend` each of them starts `ttl` anew; with `replace` it takes the place of a job that is delayed. With
    `keepLastIfActive` the last one that comes while a job is active is added when that one ends; `ttl` does not count
    then.
    """

    id: Annotated[str, Meta(pattern=NO_CONTROL, max_length=MAX_ID)]
    ttl: Count | UnsetType = UNSET
    extend: bool | UnsetType = UNSET
    replace: bool | UnsetType = UNSET
    keepLastIfActive: bool | UnsetType = UNSET  # noqa: N815 - BullMQ's spelling


class TelemetryOption(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The trace context of a job: `metadata` is the context, and `omitContext` asks for none."""

    metadata: str | UnsetType = UNSET
    omitContext: bool | UnsetType = UNSET  # noqa: N815


class JobOptions(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The options a caller may set, as BullMQ spells them; times in milliseconds, sizes in bytes.

    The last four say what the failure of a job does to its parent; at most one of them may be true.
    """

    attempts: Count = 0
    timestamp: Count | UnsetType = UNSET
    delay: Count | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=1, lt=MAX_PRIORITY)] | UnsetType = UNSET
    lifo: bool | UnsetType = UNSET
    backoff: Delay | BackoffOption | UnsetType = UNSET
    jobId: str | UnsetType = UNSET  # noqa: N815 - BullMQ's spelling
    deduplication: DeduplicationOption | UnsetType = UNSET
    removeOnComplete: KeepOption | UnsetType = UNSET  # noqa: N815
    removeOnFail: KeepOption | UnsetType = UNSET  # noqa: N815
    keepLogs: Count | UnsetType = UNSET  # noqa: N815
    stackTraceLimit: Count | UnsetType = UNSET  # noqa: N815
    sizeLimit: Count | UnsetType = UNSET  # noqa: N815
    telemetry: TelemetryOption | UnsetType = UNSET
    group: GroupOption | UnsetType = UNSET
    failParentOnFailure: bool | UnsetType = UNSET  # noqa: N815
    continueParentOnFailure: bool | UnsetType = UNSET  # noqa: N815
    ignoreDependencyOnFailure: bool | UnsetType = UNSET  # noqa: N815
    removeDependencyOnFailure: bool | UnsetType = UNSET  # noqa: N815

    def as_shown(self) -> dict[str, Any]:
        """Return the options as BullMQ shows them: always with `attempts`, and a numeric backoff as an object."""
        shown: dict[str, Any] = msgspec.to_builtins(self)
        if not self.attempts:
            shown = {"attempts": 0, **shown}
        if self.removeOnComplete is None:  # as if it were not there
            del shown["removeOnComplete"]
        if self.removeOnFail is None:
            del shown["removeOnFail"]
        if self.backoff is UNSET:
            return shown
        if isinstance(self.backoff, float):
            shown["backoff"] = {"type": "fixed", "delay": whole_if_whole(self.backoff)}
        elif isinstance(self.backoff, BackoffOption):
            for part in ("delay", "jitter"):
                if part in shown["backoff"]:
                    shown["backoff"][part] = whole_if_whole(shown["backoff"][part])
        return shown


class JobSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One job to add: `data` is the JSON text that came."""

    name: Name
    data: Raw
    opts: JobOptions | None = None

    def timestamp_ms(self, now_ms: int) -> int:
        """Return when the job was created: the time in its options, or now."""
        given = UNSET if self.opts is None else self.opts.timestamp
        return given or now_ms


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_INTEGER = re.compile(r"(?:0|-?[1-9][0-9]{0,30})\Z", re.ASCII)


def check_job(job: JobSpec) -> None:
    """Refuse a job that BullMQ refuses, before anything is written.

    Raises:
        InvalidRequest: with BullMQ's text.
    """
    opts = job.opts
    if opts is None:
        return
    check_options(opts)
    if opts.sizeLimit and memoryview(job.data).nbytes > opts.sizeLimit:
        raise InvalidRequest(f"The size of job {job.name} exceeds the limit {opts.sizeLimit} bytes", field="sizeLimit")


def check_options(opts: JobOptions) -> None:
    """Refuse options that BullMQ refuses for any job."""
    on_failure = (
        opts.removeDependencyOnFailure, opts.failParentOnFailure, opts.continueParentOnFailure,
        opts.ignoreDependencyOnFailure,
    )  # fmt: skip
    if on_failure.count(True) > 1:
        exclusive = [name for name in ON_FAILURE if getattr(opts, name) is True]
        text = f"The following options cannot be used together: {', '.join(exclusive)}"
        raise InvalidRequest(text, field=exclusive[1])
    if opts.jobId:
        check_job_id(opts.jobId)
    if opts.group is not UNSET:
        check_group(opts.group)
    if isinstance(opts.backoff, BackoffOption) and opts.backoff.delay is not UNSET:
        check_backoff_type(opts.backoff.type)


def check_job_id(job_id: str) -> None:
    """Refuse a custom id as BullMQ does: a number, an id with `:` other than `a:b:c`, or one that begins with `0:`."""
    if len(job_id) > MAX_ID:
        raise InvalidRequest(f"Invalid jobId, must be at most {MAX_ID} characters", field="jobId")
    if _CONTROL.search(job_id):
        raise InvalidRequest(f"Invalid jobId {job_id!r}, must not contain control characters", field="jobId")
    if _is_integer_to_bullmq(job_id):
        raise InvalidRequest("Custom Id cannot be integers", field="jobId")
    if ":" in job_id and job_id.count(":") != 2:
        raise InvalidRequest("Custom Id cannot contain :", field="jobId")
    if job_id.startswith("0:"):
        # BullMQ adds such a job, and takes its id for a marker of older versions when a worker fetches it.
        raise InvalidRequest(f"Invalid jobId {job_id}, BullMQ drops jobs whose id begins with 0:", field="jobId")
    if not is_job_id(job_id):
        raise InvalidRequest(f"Invalid jobId {job_id}, BullMQ uses this key itself", field="jobId")


def _is_integer_to_bullmq(job_id: str) -> bool:
    """Return True if `${parseInt(id)}` equals the id: a number in its shortest form that a double holds exactly.

    Most ids of many digits (snowflakes) are not such numbers, and are in use. JavaScript reads any other text as `NaN`,
    so the id `NaN` is refused too.
    """
    if not _INTEGER.match(job_id):
        return job_id == "NaN"
    number = float(job_id)
    return abs(number) < 1e21 and format(Decimal(repr(number)), "f").removesuffix(".0") == job_id


def is_job_id(text: str) -> bool:
    """Return True if this can be a job's id: other keys of a queue (`orders:wait`, `orders:1:logs`) are not jobs."""
    return not (text in _KEY_PARTS or text.startswith(_KEY_PREFIXES) or text.endswith(_KEY_SUFFIXES))


# What BullMQ appends to a queue's or a job's key.
_KEY_PARTS = frozenset(
    (
        "", "active", "wait", "waiting-children", "paused", "completed", "failed", "delayed", "repeat", "stalled",
        "limiter", "prioritized", "id", "stalled-check", "meta", "pc", "events", "marker", "de", "dn", "metrics",
    )
)  # fmt: skip
_KEY_PREFIXES = ("de:", "dn:", "metrics:", "toril:groups")
_KEY_SUFFIXES = (":lock", ":logs", ":dependencies", ":processed", ":failed", ":unsuccessful")


def check_backoff_type(kind: str) -> None:
    """Refuse a backoff with a delay whose strategy is not BullMQ's."""
    if kind not in {"fixed", "exponential"}:
        raise InvalidRequest(
            f'Invalid backoff type {kind}, must be "fixed" or "exponential" if delay is provided',
            field="backoff",
        )
