"""A registered worker: the document that `POST /workers` stores, its validation, and what it means.

The document is shared with BullMQ Proxy instances (hash `bmqp:w:meta`), so its shape and its error texts are
theirs. `read_worker` serves both sides: what a caller posts, and what is found in the hash.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from toril.core.egress import OTHER_PROTOCOLS, Egress
from toril.core.errors import InvalidRequest
from toril.core.headers import is_header_name, is_header_value
from toril.core.job_faults import decode_json, js, whole
from toril.core.push_policy import PushPolicy, read_policy
from toril.core.queue_name import NameRules
from toril.core.redaction import HIDDEN
from toril.core.signing import HEADERS as SIGNATURE_HEADERS
from toril.core.stored_job import Keep

METHODS = ("POST", "PUT", "PATCH")
DEFAULT_TIMEOUT_S = 3.0
MAX_CONCURRENCY = 10_000
MAX_URL = 16 * 1024
MAX_HEADERS_BYTES = 64 * 1024


class Endpoint(Struct, frozen=True):
    """Where a worker's jobs are sent, and how. `timeout_s` covers the whole answer."""

    url: str
    method: str
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = DEFAULT_TIMEOUT_S


class Limiter(Struct, frozen=True):
    """At most `max` jobs started per `duration` milliseconds, counted in Redis across all workers."""

    max: int
    duration: int


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
    opts = {} if parsed.get("opts") is None else parsed["opts"]
    if not isinstance(opts, dict):
        raise InvalidRequest(f"Invalid opts {js(opts)}, must be an object", field="opts")
    policy = None if parsed.get("policy") is None else read_policy(parsed["policy"])
    if policy is not None and policy.secrets:
        _leave_signature_to_us(endpoint)
    return _with_options(WorkerSpec(queue, endpoint, policy=policy), opts)


def shown_worker(queue: str, document: bytes, names: NameRules, *, paused: bool) -> dict[str, Any]:
    """A worker's document as callers may see it: the values of its headers are hidden, its policy left out.

    `state` is `running`, `paused`, or `invalid` where somebody has stored what cannot run; `reason` says why.
    """
    try:
        read_worker(document, names)
    except InvalidRequest as exc:
        # These messages repeat what is there instead of an object, and that may be headers.
        is_repeated = exc.message.endswith(", must be an object")
        reason = f"Invalid {exc.field}, must be an object" if is_repeated else exc.message
        return {"queue": queue, "endpoint": None, "opts": None, "state": "invalid", "reason": reason}
    parsed = decode_json(document)
    endpoint = parsed["endpoint"]
    if endpoint.get("headers") is not None:
        endpoint = endpoint | {"headers": dict.fromkeys(endpoint["headers"], HIDDEN)}
    state = "paused" if paused else "running"
    return {"queue": queue, "endpoint": endpoint, "opts": parsed.get("opts") or {}, "state": state}


def _require(parsed: dict[str, Any], fields: tuple[str, ...]) -> None:
    for field in fields:
        if parsed.get(field) in (None, "", 0, False):
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
    timeout = _positive(parsed, "timeout", "timeout")
    return Endpoint(
        parsed["url"],
        method.upper(),
        _headers(parsed.get("headers")),
        DEFAULT_TIMEOUT_S if timeout is None else timeout / 1000,
    )


def check_url(url: Any) -> None:
    """Only absolute http and https URLs that a request line can carry, without user name, password or odd port."""
    fault = InvalidRequest("Invalid URL", field="endpoint.url")
    if not isinstance(url, str) or not url.isprintable() or " " in url or "\\" in url:
        raise fault
    if len(url) > MAX_URL:
        raise InvalidRequest(f"Invalid URL, must be at most {MAX_URL} characters", field="endpoint.url")
    try:
        parts = urlsplit(url)
        port = parts.port  # reading it raises where it is no port
        (parts.hostname or "").encode("idna")  # raises where it is no host name
    except ValueError as exc:
        raise fault from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise fault
    if port in OTHER_PROTOCOLS:
        raise InvalidRequest(f"Invalid URL, port {port} belongs to another protocol", field="endpoint.url")
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest("Invalid URL, must not contain a user name or password", field="endpoint.url")


def check_host(endpoint: Endpoint, egress: Egress) -> None:
    """Refuse an endpoint whose host is refused whatever its addresses are; names are not looked up.

    Not part of `read_worker`: a worker that is in the hash already runs, and its jobs tell why they fail.
    """
    refusal = egress.refuses_host(urlsplit(endpoint.url).hostname or "")
    if refusal is not None:
        raise InvalidRequest(f"Invalid URL, {refusal}", field="endpoint.url")


def _headers(parsed: Any) -> tuple[tuple[str, str], ...]:
    if parsed is None:
        return ()
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"Invalid headers {js(parsed)}, must be an object", field="endpoint.headers")
    for name, value in parsed.items():
        if not name.isascii() or not is_header_name(name.encode()):
            raise InvalidRequest(f"Invalid header name {name!r}", field="endpoint.headers")
        if not isinstance(value, str) or not _is_sendable(value):
            raise InvalidRequest(f"Invalid value of header {name}", field=f"endpoint.headers.{name}")
    if sum(len(name) + len(value) + 4 for name, value in parsed.items()) > MAX_HEADERS_BYTES:
        raise InvalidRequest(
            f"Invalid headers, must be at most {MAX_HEADERS_BYTES} bytes in sum", field="endpoint.headers"
        )
    if sum(name.lower() == "host" for name in parsed) > 1:
        raise InvalidRequest("Invalid headers, there is more than one Host", field="endpoint.headers")
    return tuple(parsed.items())


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
    _only(opts, ("concurrency", "removeOnComplete", "removeOnFail", "limiter", "maxStalledCount"))
    limiter = opts.get("limiter")
    if limiter is not None:
        if not isinstance(limiter, dict):
            raise InvalidRequest(f"Invalid limiter {js(limiter)}, must be an object", field="limiter")
        limiter = Limiter(
            _positive(limiter, "max", "limiter.max", required=True) or 0,
            _positive(limiter, "duration", "limiter.duration", required=True) or 0,
        )
    stalled = _positive(opts, "maxStalledCount", "maxStalledCount")
    concurrency = _positive(opts, "concurrency", "concurrency")
    if concurrency is not None and concurrency > MAX_CONCURRENCY:
        raise InvalidRequest(f"Invalid concurrency, must be at most {MAX_CONCURRENCY}", field="concurrency")
    return replace(
        spec,
        concurrency=1 if concurrency is None else concurrency,
        limiter=limiter,
        max_stalled_count=1 if stalled is None else stalled,
        keep_completed=_keep(opts, "removeOnComplete"),
        keep_failed=_keep(opts, "removeOnFail"),
    )


def _keep(opts: dict[str, Any], field: str) -> Keep | None:
    parsed = opts.get(field)
    if parsed is None:
        return None
    if not isinstance(parsed, dict):
        raise InvalidRequest(f"Invalid {field} {js(parsed)}, must be an object", field=field)
    _only(parsed, ("count", "age"), f"{field}.")
    count = _positive(parsed, "count", f"{field}.count")
    age = _positive(parsed, "age", f"{field}.age")
    return Keep(-1 if count is None and age is None else count, age)


def _positive(parsed: dict[str, Any], field: str, path: str, *, required: bool = False) -> int | None:
    value = parsed.get(field)
    if value is None and not required:
        return None
    number = whole(value, 1)
    if number is None:
        raise InvalidRequest(f"Invalid {path}", field=path)
    return number
