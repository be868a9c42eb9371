"""A registered worker: the document that `POST /workers` stores, its validation, and what it means.

The document is shared with BullMQ Proxy instances (hash `bmqp:w:meta`), so its shape and its error texts are
those of BullMQ Proxy. `read_worker` reads both what a caller posts and what is found in the hash.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from toril.bullmq.rules.json_values import decode_json, js, whole
from toril.bullmq.rules.queue_name import NameRules
from toril.core.destination import Limiter
from toril.core.errors import InvalidRequest
from toril.core.group_limits import GroupDefault, GroupRate
from toril.core.http.headers import is_header_name, is_header_value
from toril.core.http.signing import HEADERS as SIGNATURE_HEADERS
from toril.core.http.urls import check_url
from toril.core.redaction import HIDDEN
from toril.core.stored_job import Keep
from toril.http_client.egress import Egress
from toril.queues.rules.javascript import is_falsy, number_text
from toril.queues.rules.push_policy import PushPolicy, check_effect, read_policy

METHODS = ("POST", "PUT", "PATCH")
DEFAULT_TIMEOUT_S = 3.0
MAX_CONCURRENCY = 10_000
MAX_HEADERS_BYTES = 64 * 1024
_USER = re.compile(r"\A([^/\\?#@:]*:[/\\]*)[^/\\?#]*@")


class Endpoint(Struct, frozen=True):
    """The endpoint of a worker. `timeout_s` covers the whole answer."""

    url: str
    method: str
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = DEFAULT_TIMEOUT_S


class WorkerSpec(Struct, frozen=True):
    """A worker that can run."""

    queue: str
    endpoint: Endpoint
    concurrency: int = 1
    limiter: Limiter | None = None
    max_stalled_count: int = 1
    keep_completed: Keep | None = None
    keep_failed: Keep | None = None
    policy: PushPolicy | None = None
    group: GroupDefault | None = None


def read_worker(document: bytes, names: NameRules) -> WorkerSpec:
    """Read a worker's document.

    Raises:
        InvalidRequest: with BullMQ Proxy's text (wire/bullmq-proxy.md, "Worker validation").
    """
    parsed = decode_json(document)
    if not isinstance(parsed, dict):
        raise InvalidRequest("Body must be an object")
    _require(parsed, ("queue", "endpoint"))
    _only(parsed, ("queue", "endpoint", "opts", "policy"))
    queue = parsed["queue"]
    if not isinstance(queue, str):
        raise InvalidRequest(f"Invalid queue {js(queue)}, must be a string", field="queue")
    names.check(queue)
    if not isinstance(parsed["endpoint"], dict):
        raise InvalidRequest(f"Invalid endpoint {js(parsed['endpoint'])}, must be an object", field="endpoint")
    endpoint = _endpoint(parsed["endpoint"])
    opts = {} if is_falsy(parsed.get("opts")) else parsed["opts"]
    if not isinstance(opts, dict):
        raise InvalidRequest(f"Invalid opts {js(opts)}, must be an object", field="opts")
    policy = None if parsed.get("policy") is None else read_policy(parsed["policy"])
    if policy is not None and policy.secrets:
        _leave_signature_to_us(endpoint)
    return _with_options(WorkerSpec(queue, endpoint, policy=policy), opts)


def stored_url(document: bytes) -> str:
    """Return the URL in a stored document as it can be shown, valid or not; empty if there is none."""
    try:
        url = decode_json(document)["endpoint"]["url"]
    except (InvalidRequest, LookupError, TypeError):
        return ""
    # An invalid one may hold a password, and need not be a URL.
    return _USER.sub(rf"\1{HIDDEN}@", url) if isinstance(url, str) else ""


def shown_worker(queue: str, document: bytes, names: NameRules, *, paused: bool) -> dict[str, Any]:
    """Return a worker's document as callers may see it: header values are hidden, and the policy is left out.

    `state` is that of `worker_state`; for an invalid document, `reason` says why.
    """
    fault = _fault_of(queue, document, names)
    if fault is not None:
        # These messages repeat the value that is there instead of an object, which may hold headers.
        is_repeated = fault.message.endswith(", must be an object")
        reason = f"Invalid {fault.field}, must be an object" if is_repeated else fault.message
        return {"queue": queue, "endpoint": None, "opts": None, "state": "invalid", "reason": reason}
    parsed = decode_json(document)
    endpoint = parsed["endpoint"]
    if endpoint.get("headers") is not None:
        endpoint = endpoint | {"headers": dict.fromkeys(endpoint["headers"], HIDDEN)}
    state = "paused" if paused else "running"
    return {"queue": queue, "endpoint": endpoint, "opts": parsed.get("opts") or {}, "state": state}


def worker_state(queue: str, document: bytes, names: NameRules, *, paused: bool) -> str:
    """Return `running`, `paused`, or `invalid` for a document that cannot run."""
    if _fault_of(queue, document, names) is not None:
        return "invalid"
    return "paused" if paused else "running"


def _fault_of(queue: str, document: bytes, names: NameRules) -> InvalidRequest | None:
    """Return why the document of a queue cannot run; None if it can."""
    try:
        spec = read_worker(document, names)
    except InvalidRequest as exc:
        return exc
    if spec.queue != queue:
        return InvalidRequest(f"Invalid queue {spec.queue}, the document is stored for {queue}", field="queue")
    return None


def _require(parsed: dict[str, Any], fields: tuple[str, ...]) -> None:
    for field in fields:
        if is_falsy(parsed.get(field)):
            raise InvalidRequest(f"{field} is required", field=field)


def _only(parsed: dict[str, Any], allowed: tuple[str, ...], path: str = "") -> None:
    for field in parsed:
        if field not in allowed:
            raise InvalidRequest(f"Invalid field: {path}{field}", field=f"{path}{field}")


def _endpoint(parsed: dict[str, Any]) -> Endpoint:
    _require(parsed, ("url", "method"))
    check_url(parsed["url"])
    method = parsed["method"]
    if not isinstance(method, str) or method.upper() not in METHODS:
        raise InvalidRequest(f"Invalid HTTP method {js(method)}", field="endpoint.method")
    _only(parsed, ("url", "method", "headers", "timeout"))
    timeout = None if is_falsy(parsed.get("timeout")) else _least(parsed, "timeout", "timeout", 1)
    return Endpoint(
        parsed["url"],
        method.upper(),
        _headers(parsed.get("headers")),
        DEFAULT_TIMEOUT_S if timeout is None else timeout / 1000,
    )


def check_origin(endpoint: Endpoint, egress: Egress) -> None:
    """Raise `InvalidRequest` if the host or port of an endpoint is refused; names are not looked up.

    Not part of `read_worker`: a worker that is stored already runs, and its jobs fail with the reason.
    """
    parts = urlsplit(endpoint.url)
    refusal = egress.refuses_origin(parts.hostname or "", parts.port)
    if refusal is not None:
        raise InvalidRequest(f"Invalid URL, {refusal}", field="endpoint.url")


def check_policy(document: bytes) -> None:
    """Raise `InvalidRequest` if a part of the policy in a valid document has no effect.

    Not part of `read_worker`: a worker that is stored already goes on running.
    """
    check_effect(decode_json(document).get("policy"))


def _headers(parsed: Any) -> tuple[tuple[str, str], ...]:
    if parsed is None:
        return ()
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"Invalid headers {js(parsed)}, must be an object", field="endpoint.headers")
    headers = {name: _header_value(name, value) for name, value in parsed.items()}
    if sum(len(name) + len(value) + 4 for name, value in headers.items()) > MAX_HEADERS_BYTES:
        raise InvalidRequest(
            f"Invalid headers, must be at most {MAX_HEADERS_BYTES} bytes in sum", field="endpoint.headers"
        )
    if sum(name.lower() == "host" for name in parsed) > 1:
        raise InvalidRequest("Invalid headers, there is more than one Host", field="endpoint.headers")
    return tuple(headers.items())


def _header_value(name: str, value: Any) -> str:
    """Return a header's value as text, as `fetch` sends it: `5` as "5", `true` as "true"."""
    if not name.isascii() or not is_header_name(name.encode()):
        raise InvalidRequest(f"Invalid header name {name!r}", field="endpoint.headers")
    if isinstance(value, bool):
        return "true" if value else "false"
    text = number_text(value) if isinstance(value, (int, float)) else value
    if not isinstance(text, str) or not _is_sendable(text):
        raise InvalidRequest(f"Invalid value of header {name}", field=f"endpoint.headers.{name}")
    return text


def _is_sendable(value: str) -> bool:
    try:
        return is_header_value(value.encode("latin-1"))
    except UnicodeEncodeError:
        return False


def _leave_signature_to_us(endpoint: Endpoint) -> None:
    for name, _ in endpoint.headers:
        if name.lower() in SIGNATURE_HEADERS:
            raise InvalidRequest(f"Invalid header {name}, signing sets it", field=f"endpoint.headers.{name}")


def _with_options(spec: WorkerSpec, opts: dict[str, Any]) -> WorkerSpec:
    _only(opts, ("concurrency", "removeOnComplete", "removeOnFail", "limiter", "maxStalledCount", "group"))
    rate = _rate(opts.get("limiter"), "limiter")
    limiter = None if rate is None else Limiter(*rate)
    stalled = _least(opts, "maxStalledCount", "maxStalledCount", 0)
    concurrency = _least(opts, "concurrency", "concurrency", 1)
    if concurrency is not None and concurrency > MAX_CONCURRENCY:
        raise InvalidRequest(f"Invalid concurrency, must be at most {MAX_CONCURRENCY}", field="concurrency")
    return replace(
        spec,
        concurrency=1 if concurrency is None else concurrency,
        limiter=limiter,
        max_stalled_count=1 if stalled is None else stalled,
        keep_completed=_keep(opts, "removeOnComplete"),
        keep_failed=_keep(opts, "removeOnFail"),
        group=_group(opts.get("group")),
    )


def _group(value: Any) -> GroupDefault | None:
    """Return what holds for each group of the queue that has no limits."""
    if is_falsy(value):
        return None
    if not isinstance(value, dict):
        raise InvalidRequest(f"Invalid group {js(value)}, must be an object", field="group")
    _only(value, ("concurrency", "limit"), "group.")
    if isinstance(value.get("limit"), dict):
        _only(value["limit"], ("max", "duration"), "group.limit.")
    rate = _rate(value.get("limit"), "group.limit")
    concurrency = _least(value, "concurrency", "group.concurrency", 1)
    return GroupDefault(concurrency, None if rate is None else GroupRate(*rate))


def _rate(value: Any, path: str) -> tuple[int, int] | None:
    """Return the numbers of `{max, duration}`; None where it is not given."""
    if is_falsy(value):
        return None
    if not isinstance(value, dict):
        raise InvalidRequest(f"Invalid {path} {js(value)}, must be an object", field=path)
    return (
        _least(value, "max", f"{path}.max", 1, required=True) or 0,
        _least(value, "duration", f"{path}.duration", 1, required=True) or 0,
    )


def _keep(opts: dict[str, Any], field: str) -> Keep | None:
    """Return how many ended jobs stay; None is all of them, as with BullMQ's workers."""
    if is_falsy(opts.get(field)):
        return None
    parsed = opts[field]
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"Invalid {field} {js(parsed)}, must be an object", field=field)
    _only(parsed, ("count", "age"), f"{field}.")
    count = _least(parsed, "count", f"{field}.count", 0)
    age = _least(parsed, "age", f"{field}.age", 0)
    return Keep(-1 if count is None and age is None else count, age)


def _least(parsed: dict[str, Any], field: str, path: str, least: int, *, required: bool = False) -> int | None:
    """Return a whole number of at least `least`; None if it is missing and not required."""
    value = parsed.get(field)
    if value is None and not required:
        return None
    number = whole(value, least)
    if number is None:
        raise InvalidRequest(f"Invalid {path}", field=path)
    return number
