"""The fault of a body of jobs that the typed decode refused, in BullMQ Proxy's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from toril.bullmq.rules.job import MAX_ID, MAX_PRIORITY, NO_CONTROL, ON_FAILURE, JobOptions, JobSpec, check_job
from toril.bullmq.rules.json_values import BEYOND, decode_json, is_number, js, whole
from toril.core.errors import InvalidRequest
from toril.core.integers import MAX_SAFE_INTEGER

_JOB_FIELDS = ("name", "data", "opts")
_NAME = re.compile(NO_CONTROL)
# Null is a wrong type for these fields; other fields with null count as missing.
_NOT_NULLABLE = ("lifo", "priority", "removeOnComplete", "removeOnFail")
_FLAGS_OF_DEDUPLICATION = ("extend", "replace", "keepLastIfActive")


def jobs_or_fault(body: bytes) -> list[JobSpec]:
    """Return the jobs if they are acceptable after all. `data` is not parsed here either.

    Raises:
        InvalidRequest: names the first fault.
    """
    decode_json(body, Raw)
    try:
        items = msgspec.json.decode(body, type=list[Raw])
    except msgspec.ValidationError:
        raise InvalidRequest("Body must be an array") from None
    objects = [_object(item) for item in items]
    return [_job(item) for item in objects]


def _object(item: Raw) -> dict[str, Raw]:
    try:
        return msgspec.json.decode(item, type=dict[str, Raw])
    except msgspec.ValidationError:
        raise InvalidRequest(f"Invalid job {_shown(item)}, must be an object") from None


def _value(raw: Raw | None) -> Any:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except msgspec.ValidationError:  # "Number out of range" is all that can be wrong with valid JSON
        return BEYOND


def _shown(raw: Raw) -> str:
    return bytes(raw).decode(errors="replace")


def _job(item: dict[str, Raw]) -> JobSpec:
    name = _value(item.get("name"))
    if name is None or name == "":
        raise InvalidRequest("name is required", field="name")
    if "data" not in item:
        raise InvalidRequest("data is required", field="data")
    for key in item:
        if key not in _JOB_FIELDS:
            raise InvalidRequest(f"Unexpected field: {key}", field=key)
    if not isinstance(name, str):
        raise InvalidRequest(f"Invalid name {js(name)}, must be a string", field="name")
    if not _NAME.match(name):
        raise InvalidRequest(f"Invalid name {name!r}, must not contain control characters", field="name")
    raw = item.get("opts")
    if raw is None or bytes(raw) == b"null":
        return JobSpec(name, item["data"])
    try:
        opts = msgspec.json.decode(raw, type=dict[str, Raw])
    except msgspec.ValidationError:
        raise InvalidRequest(f"Invalid opts {_shown(raw)}, must be an object", field="opts") from None
    job = JobSpec(name, item["data"], _options({key: _value(value) for key, value in opts.items()}))
    check_job(job)
    return job


def _options(opts: dict[str, Any]) -> JobOptions:
    for key in opts:
        if key not in _CHECKS:
            raise InvalidRequest(f"Unexpected field: opts.{key}", field=f"opts.{key}")
    clean = {key: value for key, value in opts.items() if value is not None or key in _NOT_NULLABLE}
    for key, check in _CHECKS.items():
        if key in clean:
            clean[key] = check(key, clean[key])
    try:
        return msgspec.convert(clean, JobOptions)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"Invalid opts: {exc}", field="opts") from exc


def _count(key: str, value: Any) -> int:
    count = whole(value, 0)
    if count is None:
        raise InvalidRequest(f"Invalid {key} {js(value)}", field=key)
    return count


def _boolean(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"Invalid {key} {js(value)}, must be a boolean", field=key)
    return value


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"Invalid {key} {js(value)}, must be a string", field=key)
    return value


def _priority(_: str, value: Any) -> int:
    priority = whole(value, 1, MAX_PRIORITY)
    if priority is None:
        raise InvalidRequest(f"Invalid priority {js(value)}", field="priority")
    if priority == MAX_PRIORITY:  # the proxy lets this one through and BullMQ refuses it
        raise InvalidRequest(f"Priority should be between 0 and {MAX_PRIORITY - 1}", field="priority")
    return priority


def _backoff(_: str, value: Any) -> Any:
    if is_number(value):
        if value < 0:
            raise InvalidRequest(f"Invalid backoff delay {js(value)}, must be greater than 0", field="backoff")
        return value
    text = f"Invalid backoff {js(value)}, must be a number or an object"
    if not isinstance(value, dict):
        raise InvalidRequest(text, field="backoff")
    if not value:
        raise InvalidRequest(f"{text} with at least the type field", field="backoff")
    for key in value:
        if key not in {"type", "delay", "jitter"}:
            raise InvalidRequest(f"Unexpected field: opts.{key}", field="backoff")
    kind = value.get("type", "undefined")
    delay = value.get("delay", 0)
    if "delay" in value and kind not in ("fixed", "exponential"):
        raise InvalidRequest(
            f'Invalid backoff type {js(kind)}, must be "fixed" or "exponential" if delay is provided',
            field="backoff",
        )
    if not isinstance(kind, str):
        raise InvalidRequest(f"Invalid backoff type {js(kind)}, must be a string", field="backoff")
    if not is_number(delay):
        raise InvalidRequest(f"Invalid backoff delay {js(delay)}, must be a number", field="backoff")
    if delay < 0:
        raise InvalidRequest(f"Invalid backoff delay {js(delay)}, must be greater than 0", field="backoff")
    jitter = value.pop("jitter", None)
    return value if jitter is None else value | {"jitter": _jitter(jitter)}


def _jitter(value: Any) -> float:
    if not is_number(value):
        raise InvalidRequest(f"Invalid backoff jitter {js(value)}, must be a number", field="backoff")
    if not 0 <= value <= 1:
        raise InvalidRequest("Jitter should be between 0 and 1", field="backoff")
    return float(value)


def _deduplication(_: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"Invalid deduplication {js(value)}, must be an object", field="deduplication")
    for key in value:
        if key not in {"id", "ttl", *_FLAGS_OF_DEDUPLICATION}:
            raise InvalidRequest(f"Unexpected field: opts.{key}", field="deduplication")
    name, ttl = value.get("id", "undefined"), value.get("ttl", 1)
    if "id" not in value or not isinstance(name, str):
        raise InvalidRequest(f"Invalid deduplication.id {js(name)}, must be a string", field="deduplication.id")
    if not name:
        raise InvalidRequest("Deduplication id must be provided", field="deduplication.id")
    if len(name) > MAX_ID:
        raise InvalidRequest(f"Invalid deduplication.id, must be at most {MAX_ID} characters", field="deduplication.id")
    if not _NAME.match(name):
        raise InvalidRequest(
            f"Invalid deduplication.id {name!r}, must not contain control characters",
            field="deduplication.id",
        )
    if not is_number(ttl):
        raise InvalidRequest(f"Invalid deduplication.ttl {js(ttl)}, must be a number", field="deduplication.ttl")
    if ttl < 0:
        raise InvalidRequest(f"Invalid deduplication.ttl {js(ttl)}, must be greater than 0", field="deduplication.ttl")
    if whole(ttl, 0) is None:
        raise InvalidRequest(
            f"Invalid deduplication.ttl {js(ttl)}, must be a whole number of milliseconds",
            field="deduplication.ttl",
        )
    flags = _flags("deduplication", value, _FLAGS_OF_DEDUPLICATION)
    return {"id": name} | ({"ttl": int(ttl)} if "ttl" in value else {}) | flags


def _flags(key: str, value: dict[str, Any], names: Sequence[str]) -> dict[str, bool]:
    """Return those of these parts of an option that are there."""
    return {name: _boolean(f"{key}.{name}", value[name]) for name in names if value.get(name) is not None}


def _telemetry(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"Invalid telemetry {js(value)}, must be an object", field=key)
    for part in value:
        if part not in {"metadata", "omitContext"}:
            raise InvalidRequest(f"Unexpected field: opts.{part}", field=key)
    metadata = value.get("metadata")
    given = {} if metadata is None else {"metadata": _text("telemetry.metadata", metadata)}
    return given | _flags("telemetry", value, ("omitContext",))


def _group(_: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"Invalid group {js(value)}, must be an object", field="group")
    for key in value:
        if key not in {"id", "priority"}:
            raise InvalidRequest(f"Unexpected field: opts.group.{key}", field="group")
    name, priority = value.get("id", "undefined"), value.get("priority", 0)
    number = whole(name, -MAX_SAFE_INTEGER)
    if "id" not in value or not (isinstance(name, str) or number is not None):
        raise InvalidRequest(f"Invalid group.id {js(name)}, must be a string or an integer", field="group.id")
    counted = whole(priority, 0, MAX_PRIORITY)
    if counted is None:
        text = f"Invalid group.priority {js(priority)}, must be a whole number from 0 to {MAX_PRIORITY}"
        raise InvalidRequest(text, field="group.priority")
    return {"id": name if isinstance(name, str) else number} | ({"priority": counted} if "priority" in value else {})


def _keep(key: str, value: Any) -> Any:
    parts = list(value.values()) if isinstance(value, dict) else [value]
    for part in parts:
        is_numeric = isinstance(part, (int, float)) and not isinstance(part, bool)
        if isinstance(part, (list, dict)) or (is_numeric and not is_number(part)):
            raise InvalidRequest(f"Invalid {key} {js(value)}, must be a boolean, a number or a flat object", field=key)
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "delay": _count,
    "attempts": _count,
    "priority": _priority,
    "backoff": _backoff,
    "lifo": _boolean,
    "jobId": _text,
    "deduplication": _deduplication,
    "removeOnComplete": _keep,
    "removeOnFail": _keep,
    "timestamp": _count,
    "keepLogs": _count,
    "stackTraceLimit": _count,
    "sizeLimit": _count,
    "telemetry": _telemetry,
    "group": _group,
    **dict.fromkeys(ON_FAILURE, _boolean),
}
