"""A job as BullMQ stores it, a Redis hash, and the JSON that clients see of it.

`render` is used for every job that leaves toril: in REST answers and in the body pushed to an endpoint. It
splices the stored JSON texts instead of parsing them, so what a producer stored arrives digit for digit.
Field names are the ones of wire/bullmq-proxy.md, "Job JSON".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from toril.core.backoff import Backoff

Fields = Mapping[bytes, bytes]

MAX_GROUP_BYTES = 1024
"""256 characters, as long as they get in UTF-8."""
_encode = msgspec.json.Encoder().encode
_is_json = msgspec.json.Decoder(Raw).decode
_INTEGER = re.compile(rb"-?(?:0|[1-9][0-9]*)\Z")

# BullMQ shortens these option names in Redis (optsEncodeMap in bullmq/job.py).
_LONG_NAMES = {
    "fpof": "failParentOnFailure",
    "cpof": "continueParentOnFailure",
    "idof": "ignoreDependencyOnFailure",
    "rdof": "removeDependencyOnFailure",
    "kl": "keepLogs",
    "de": "deduplication",
}
_NO_OPTIONS = b'{"attempts":0}'
_SHORTENED = re.compile(rb'"(?:fpof|cpof|idof|rdof|kl|de|tm|omc)":')


class Keep(Struct, frozen=True):
    """A bound on finished jobs: `count` (-1 is all), `age` in seconds, `limit` per clean-up."""

    count: int | None = -1
    age: int | None = None
    limit: int | None = None

    def as_packed(self) -> dict[str, int]:
        """Return the shape that `moveToFinished` takes, without what is not set."""
        pairs = (("count", self.count), ("age", self.age), ("limit", self.limit))
        return {key: value for key, value in pairs if value is not None}


class StoredOptions(Struct, frozen=True):
    """The options of a stored job that the engine uses, and their JSON as clients see it.

    `trace` is the trace context that attempts pass on, as BullMQ's telemetry stores it. `group` is the id of its group.
    """

    text: bytes
    attempts: int = 0
    backoff: Backoff | None = None
    lifo: bool = False
    stack_trace_limit: int | None = None
    keep_logs: int | None = None
    keep_completed: Keep | None = None
    keep_failed: Keep | None = None
    on_failure: tuple[bool, bool, bool, bool] = (False, False, False, False)
    trace: str = ""
    group: str | None = None


def read_options(stored: bytes) -> StoredOptions:
    """Read the `opts` field of a job's hash. Never fails: what cannot be used is left at its default."""
    try:
        opts = msgspec.json.decode(stored)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return StoredOptions(b"{}")
    if not isinstance(opts, dict):
        return StoredOptions(b"{}")
    text, telemetry = stored, {}
    if _SHORTENED.search(stored):
        opts = {_LONG_NAMES.get(key, key): value for key, value in opts.items()}
        telemetry = {
            long: opts.pop(short) for short, long in (("tm", "metadata"), ("omc", "omitContext")) if short in opts
        }
        if telemetry:
            opts["telemetry"] = telemetry
        text = _encode(opts)
    return StoredOptions(
        text=text,
        attempts=int(_number(opts.get("attempts"), 0)),
        backoff=_backoff(opts.get("backoff")),
        lifo=bool(opts.get("lifo")),
        stack_trace_limit=_whole(opts.get("stackTraceLimit")),
        keep_logs=_whole(opts.get("keepLogs")),
        keep_completed=keep(opts.get("removeOnComplete")),
        keep_failed=keep(opts.get("removeOnFail")),
        on_failure=(
            bool(opts.get("failParentOnFailure")),
            bool(opts.get("continueParentOnFailure")),
            bool(opts.get("ignoreDependencyOnFailure")),
            bool(opts.get("removeDependencyOnFailure")),
        ),
        trace=_trace(telemetry),
        group=group_id(opts.get("group")),
    )


def group_id(value: Any) -> str | None:
    """Return the id of a group in a job's options, `{"id": …}`; None where that names none. 7 is the group `7`."""
    match value:
        case {"id": bool()}:
            return None
        case {"id": int() | float() as number} if abs(number) < 2**53 and number == int(number):
            return str(int(number))
        case {"id": str(name)} if 0 < len(name.encode(errors="replace")) <= MAX_GROUP_BYTES:
            return name
        case _:
            return None


def shown_options(stored: bytes) -> bytes:
    """Return `read_options(stored).text`, without reading what is in them where that is stored as it is shown."""
    if stored == _NO_OPTIONS:
        return stored
    if stored[:1] == b"{" and stored.isascii() and not _SHORTENED.search(stored):
        try:
            _is_json(stored)
        except (msgspec.DecodeError, RecursionError):
            return b"{}"
        return stored
    return read_options(stored).text


def _trace(telemetry: Mapping[str, Any]) -> str:
    context = telemetry.get("metadata")
    return context if isinstance(context, str) and not telemetry.get("omitContext") else ""


def keep(value: Any) -> Keep | None:
    """Return what BullMQ's `removeOnComplete` or `removeOnFail` says; None if the worker's own setting decides.

    A number is how many to keep, `true` removes at once, an object has `count`, `age`, `limit`. Parts of the
    wrong type are left out: in BullMQ's script they would stop it half-way.
    """
    match value:
        case None:
            return None
        case bool():
            return Keep(0 if value else -1)
        case int() | float():
            return Keep(int(_number(value, -1)))
        case dict():
            count, age, limit = (_whole(value.get(key)) for key in ("count", "age", "limit"))
            return Keep(count if age is not None or count is not None else -1, age, limit)
        case _:
            return Keep(0 if value else -1)


def _number(value: Any, default: float) -> float:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 2**53
    return value if usable else default


def _whole(value: Any) -> int | None:
    number = _number(value, -1)
    return int(number) if number >= 0 else None


def _backoff(value: Any) -> Backoff | None:
    match value:
        case {"type": str(kind)}:
            return Backoff(kind, _number(value.get("delay"), 0), _number(value.get("jitter"), 0))
        case int() | float() if value:
            return Backoff("fixed", _number(value, 0))
        case _:
            return None


def json_or_text(stored: bytes) -> bytes:
    """Return stored JSON as it is, and anything else as a JSON string."""
    try:
        _is_json(stored)
        if not stored.isascii():
            stored.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return text_json(stored)
    return stored


def text_json(stored: bytes) -> bytes:
    """Return stored bytes as a JSON string."""
    return _encode(stored.decode(errors="replace"))


def integer_json(stored: bytes | None) -> bytes:
    """Return a stored integer as JSON; 0 where it is missing or is no integer."""
    if stored is None or stored == b"0":
        return b"0"
    if stored.isdigit() and (stored[:1] != b"0" or stored == b"0"):
        return stored
    return stored if _INTEGER.match(stored) else b"0"


def render(queue: bytes, job_id: bytes, fields: Fields, options: bytes) -> bytes:
    """Return the JSON that clients see of a job.

    Args:
        queue: BullMQ's qualified name as a JSON string, `"bull:orders"`.
        job_id: its id, as stored.
        fields: the job's hash.
        options: `StoredOptions.text`.
    """
    get = fields.get
    returnvalue, progress, stacktrace = get(b"returnvalue"), get(b"progress"), get(b"stacktrace")
    text = (
        b'{"name":%b,"data":%b,"opts":%b,"id":%b,"progress":%b,"returnvalue":%b,"stacktrace":%b,"delay":%b,'
        b'"priority":%b,"attemptsStarted":%b,"attemptsMade":%b,"stalledCounter":%b,"timestamp":%b,'
        b'"queueQualifiedName":%b'
    ) % (
        text_json(get(b"name", b"")),
        json_or_text(get(b"data") or b"{}"),
        options,
        b'"%b"' % job_id if job_id.isdigit() else text_json(job_id),
        json_or_text(progress) if progress else b"0",
        b"null" if returnvalue is None else json_or_text(returnvalue),
        json_or_text(stacktrace) if stacktrace else b"[]",
        integer_json(get(b"delay")),
        integer_json(get(b"priority")),
        integer_json(get(b"ats")),
        integer_json(get(b"attemptsMade") or get(b"atm")),
        integer_json(get(b"stc")),
        integer_json(get(b"timestamp")),
        queue,
    )
    # A fresh job has at most processedOn and ats beside what it was added with.
    return text + _rarer(fields) + b"}"


def added_ms(fields: Fields) -> int:
    """Return when a job was added (wall clock); 0 where that cannot be read."""
    added = fields.get(b"timestamp", b"")
    return int(added) if added.isdigit() else 0


def due_ms(fields: Fields) -> int:
    """Return when a job could begin: when it was added, and its delay over."""
    delay = fields.get(b"delay", b"")
    return added_ms(fields) + (int(delay) if delay.isdigit() else 0)


def _rarer(fields: Fields) -> bytes:
    if _RAREST_NAMES.isdisjoint(fields):
        begun = fields.get(b"processedOn")
        return b',"processedOn":%b' % integer_json(begun) if begun else b""
    parts = [
        b',"%b":%b' % (shown, as_json(stored)) for name, shown, as_json in _RARER_FIELDS if (stored := fields.get(name))
    ]
    return b"".join(parts)


SHOWN_FROM: Mapping[str, tuple[bytes, ...]] = {
    "id": (),
    "name": (b"name",),
    "data": (b"data",),
    "opts": (b"opts",),
    "progress": (b"progress",),
    "returnvalue": (b"returnvalue",),
    "stacktrace": (b"stacktrace",),
    "delay": (b"delay",),
    "priority": (b"priority",),
    "attemptsStarted": (b"ats",),
    "attemptsMade": (b"attemptsMade", b"atm"),
    "stalledCounter": (b"stc",),
    "timestamp": (b"timestamp",),
    "queueQualifiedName": (),
    "processedOn": (b"processedOn",),
    "finishedOn": (b"finishedOn",),
    "failedReason": (b"failedReason",),
    "deduplicationId": (b"deid",),
    "repeatJobKey": (b"rjk",),
    "nextRepeatableJobId": (b"nrjid",),
    "processedBy": (b"pb",),
    "deferredFailure": (b"defa",),
    "parentKey": (b"parentKey",),
    "parent": (b"parent",),
}
"""Every field of a job's JSON, and the fields of its hash that it is made of."""

_RARER_FIELDS = (
    (b"processedOn", b"processedOn", integer_json),
    (b"finishedOn", b"finishedOn", integer_json),
    (b"failedReason", b"failedReason", text_json),
    (b"deid", b"deduplicationId", text_json),
    (b"rjk", b"repeatJobKey", text_json),
    (b"nrjid", b"nextRepeatableJobId", text_json),
    (b"pb", b"processedBy", text_json),
    (b"defa", b"deferredFailure", text_json),
    (b"parentKey", b"parentKey", text_json),
    (b"parent", b"parent", json_or_text),
)
_RAREST_NAMES = frozenset(name for name, _, _ in _RARER_FIELDS) - {b"processedOn"}
