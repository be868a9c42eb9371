"""A job as a caller posts it: its shape, BullMQ Proxy's validation, and what is stored of it.

Valid input takes one typed decode. Input that the typed decode refuses is read again, slowly, by
`toril.core.job_faults`, which either names the fault in BullMQ Proxy's words or finds it acceptable after all
(a whole number written as `5.0`). `data` is never parsed: the bytes that came are the bytes that are stored.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from toril.core.errors import InvalidRequest

MAX_SAFE_INTEGER = 2**53 - 1
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
# Flat on purpose: BullMQ's scripts encode options with cjson and cmsgpack, which stop at a nesting limit
# after they have begun to write.
Number = Annotated[float, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
Whole = Annotated[int, Meta(ge=-MAX_SAFE_INTEGER, le=MAX_SAFE_INTEGER)]
Keep = bool | Whole | Number | str | dict[str, bool | Whole | Number | str | None] | None
Delay = Annotated[float, Meta(ge=0, le=MAX_SAFE_INTEGER)]


def json_unless_given(text: bytes) -> Any:
    """The default of a struct's `Raw` field. Made anew each time: msgspec cannot describe a `Raw` in a schema."""
    return msgspec.field(default_factory=lambda: Raw(text))


class BackoffOption(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """BullMQ's backoff of a job: `delay` in milliseconds, of which the part `jitter` is left to chance."""

    type: str
    delay: Delay | UnsetType = UNSET
    jitter: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET


class DeduplicationOption(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """BullMQ's deduplication: later jobs with this id are dropped, for `ttl` milliseconds or until it ends.

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
    """What a tracer passes on with a job: `metadata` is its context, and `omitContext` asks for none."""

    metadata: str | UnsetType = UNSET
    omitContext: bool | UnsetType = UNSET  # noqa: N815


class JobOptions(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The options a caller may set, as BullMQ spells them; times in milliseconds, sizes in bytes.

    The last four say what the failure of a job does to its parent: at most one of them may be true.
    """

    attempts: Count = 0
    timestamp: Count | UnsetType = UNSET
    delay: Count | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=1, lt=MAX_PRIORITY)] | UnsetType = UNSET
    lifo: bool | UnsetType = UNSET
    backoff: Delay | BackoffOption | UnsetType = UNSET
    jobId: str | UnsetType = UNSET  # noqa: N815 - BullMQ's spelling
    deduplication: DeduplicationOption | UnsetType = UNSET
    removeOnComplete: Keep | UnsetType = UNSET  # noqa: N815
    removeOnFail: Keep | UnsetType = UNSET  # noqa: N815
    keepLogs: Count | UnsetType = UNSET  # noqa: N815
    stackTraceLimit: Count | UnsetType = UNSET  # noqa: N815
    sizeLimit: Count | UnsetType = UNSET  # noqa: N815
    telemetry: TelemetryOption | UnsetType = UNSET
    failParentOnFailure: bool | UnsetType = UNSET  # noqa: N815
    continueParentOnFailure: bool | UnsetType = UNSET  # noqa: N815
    ignoreDependencyOnFailure: bool | UnsetType = UNSET  # noqa: N815
    removeDependencyOnFailure: bool | UnsetType = UNSET  # noqa: N815

    def as_shown(self) -> dict[str, Any]:
        """The options as BullMQ shows them: `attempts` always there, a numeric backoff spelled out."""
        shown: dict[str, Any] = {"attempts": self.attempts}
        shown.update(msgspec.to_builtins(self))
        for field in ("removeOnComplete", "removeOnFail"):
            if field in shown and shown[field] is None:  # as if it were not there
                del shown[field]
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
        """When the job was made: what its options say, or now."""
        given = UNSET if self.opts is None else self.opts.timestamp
        return given or now_ms


_JOBS = msgspec.json.Decoder(list[JobSpec])
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_INTEGER = re.compile(r"(?:0|-?[1-9][0-9]{0,30})\Z", re.ASCII)


def decode_jobs(body: bytes) -> list[JobSpec]:
    """Read the body of `POST /queues/{q}/jobs`.

    Raises:
        InvalidRequest: with BullMQ Proxy's text (wire/bullmq-proxy.md), or one that says what is malformed.
    """
    try:
        jobs = _JOBS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        from toril.core.job_faults import jobs_or_fault  # noqa: PLC0415 - only bad input pays for it

        return jobs_or_fault(body)
    if not body.isascii():
        require_utf8(body)
    for job in jobs:
        check_job(job)
    return jobs


def whole_if_whole(number: float) -> float | int:
    """A number as JavaScript would write it: `5`, not `5.0`."""
    return int(number) if number.is_integer() else number


def check_job(job: JobSpec) -> None:
    """Refuse what BullMQ itself refuses, before anything is written.

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
    """Refuse options that BullMQ itself refuses, whatever job they are of."""
    exclusive = [name for name in ON_FAILURE if getattr(opts, name) is True]
    if len(exclusive) > 1:
        text = f"The following options cannot be used together: {', '.join(exclusive)}"
        raise InvalidRequest(text, field=exclusive[1])
    if opts.jobId:
        check_job_id(opts.jobId)
    if isinstance(opts.backoff, BackoffOption) and opts.backoff.delay is not UNSET:
        check_backoff_type(opts.backoff.type)


def check_job_id(job_id: str) -> None:
    """BullMQ's rules for a custom id: not a number (those are its own), no `:` but in `a:b:c`, and no `0:` in front."""
    if len(job_id) > MAX_ID:
        raise InvalidRequest(f"Invalid jobId, must be at most {MAX_ID} characters", field="jobId")
    if _CONTROL.search(job_id):
        raise InvalidRequest(f"Invalid jobId {job_id!r}, must not contain control characters", field="jobId")
    if _is_integer_to_bullmq(job_id):
        raise InvalidRequest("Custom Id cannot be integers", field="jobId")
    if ":" in job_id and job_id.count(":") != 2:
        raise InvalidRequest("Custom Id cannot contain :", field="jobId")
    if job_id.startswith("0:"):
        # BullMQ adds such a job, and takes it for a marker of its older versions when a worker could have it.
        raise InvalidRequest(f"Invalid jobId {job_id}, BullMQ drops jobs whose id begins with 0:", field="jobId")
    if not is_job_id(job_id):
        raise InvalidRequest(f"Invalid jobId {job_id}, BullMQ uses this key itself", field="jobId")


def _is_integer_to_bullmq(job_id: str) -> bool:
    """Whether `${parseInt(id)}` is the id again: a number in its shortest form that a double holds exactly.

    Ids of many digits (a snowflake, say) mostly are none, and are in use. `NaN` is what JavaScript reads of any other
    text, so it is refused too.
    """
    if not _INTEGER.match(job_id):
        return job_id == "NaN"
    number = float(job_id)
    return abs(number) < 1e21 and format(Decimal(repr(number)), "f").removesuffix(".0") == job_id


def is_job_id(text: str) -> bool:
    """Whether this can be a job's id: other keys of a queue (`orders:wait`, `orders:1:logs`) are no jobs."""
    return not (text in _KEY_PARTS or text.startswith(_KEY_PREFIXES) or text.endswith(_KEY_SUFFIXES))


# What BullMQ appends to a queue's or a job's key for its own purposes.
_KEY_PARTS = frozenset(
    (
        "", "active", "wait", "waiting-children", "paused", "completed", "failed", "delayed", "repeat", "stalled",
        "limiter", "prioritized", "id", "stalled-check", "meta", "pc", "events", "marker", "de", "dn", "metrics",
    )
)  # fmt: skip
_KEY_PREFIXES = ("de:", "dn:", "metrics:")
_KEY_SUFFIXES = (":lock", ":logs", ":dependencies", ":processed", ":failed", ":unsuccessful")


def check_backoff_type(kind: str) -> None:
    """With a delay, only the strategies that BullMQ has itself."""
    if kind not in {"fixed", "exponential"}:
        raise InvalidRequest(
            f'Invalid backoff type {kind}, must be "fixed" or "exponential" if delay is provided',
            field="backoff",
        )


def require_utf8(body: bytes) -> None:
    """JSON is UTF-8 (RFC 8259 section 8.1); bytes that are not would be altered on their way out."""
    try:
        body.decode()
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"Malformed JSON: not UTF-8 at byte {exc.start}") from exc
