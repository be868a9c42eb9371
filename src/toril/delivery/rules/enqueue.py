"""Reads the envelopes of `POST /enqueue`, and checks them field by field (wire/delivery.md).

Valid input takes one typed decode; a JSON body is never parsed, and is sent byte for byte as it came.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from toril.bullmq.rules.groups import GroupOption
from toril.core.blob import owner
from toril.core.errors import EnvelopeTooLarge, InvalidEnvelope
from toril.core.http.headers import is_header_name, is_header_value
from toril.core.http.paths import has_dot_segments
from toril.delivery.rules.delivery import Delivery, Envelope, Stored
from toril.delivery.rules.delivery_group import checked_group
from toril.delivery.rules.row_codec import UNREADABLE
from toril.delivery.rules.target import NOT_ALLOWED, TargetAuth

MAX_PRIORITY = 2**21
MAX_BATCH = 1000
MAX_KEY = 255
MAX_TARGET = 64
MAX_METHOD = 64
MAX_PATH_BYTES = 16 * 1024
MAX_HEADERS_BYTES = 64 * 1024
"""All headers as lines of a head. Few servers accept more, and a larger head would fail attempt after attempt."""
MAX_LABELS = 32
MAX_LABEL_NAME = 100
MAX_LABEL_VALUE = 500
MAX_DELAY_S = 10 * 365 * 86400.0
"""Ten years: BullMQ cannot tell apart times that are much further away."""

MAX_AHEAD_S = 3653 * 86400.0
"""Ten years of the calendar, with three leap days."""

_OURS = ("toril-", "webhook-")
_MAX_SHOWN = 200
"""How many characters of the input are quoted in an error."""
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
_PATH = re.compile(r"[/?][\x21\x22\x24-\x7e]*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
_FIELD = re.compile(r"\$\.([A-Za-z_0-9]+)")
_NAMED = re.compile(r"field `(.*?)`", re.DOTALL)


class EnqueueRequest(Struct, frozen=True, kw_only=True):
    """A checked envelope. `headers` hold a content type where the body needs one; `body` is None if there is none.

    `json_body` is the body's JSON text where it was given as a JSON value that is sent as such. `trace` is the trace
    context of the request that brought the envelope; it is no part of what makes two envelopes the same, nor is
    `job_id`, the id of the delivery where it was decided before.
    """

    target: str
    method: str
    path: str | None
    headers: tuple[tuple[str, str], ...]
    body: bytes | None
    json_body: bytes | None
    delay_s: float | None
    not_before_s: float | None
    deadline_s: float | None
    priority: int
    labels: Mapping[str, str]
    idempotency_key: str | None
    group: GroupOption | None = None
    trace: tuple[tuple[str, str], ...] = ()
    job_id: str | None = None

    @property
    def sent_headers(self) -> tuple[tuple[str, str], ...]:
        """The headers with those of the trace context that the envelope does not set itself."""
        if not self.trace:
            return self.headers
        given = {name.lower() for name, _ in self.headers}
        return (*self.headers, *(pair for pair in self.trace if pair[0] not in given))

    def first_attempt_at_s(self, now_s: float) -> float | None:
        """Return the earliest time of the first attempt; None means now."""
        at_s = now_s + self.delay_s if self.delay_s is not None else self.not_before_s
        return None if at_s is None or at_s <= now_s else at_s


class Posted(Struct, forbid_unknown_fields=True, kw_only=True):
    """An envelope as it is posted to `/enqueue`."""

    target: str
    method: str = "POST"
    path: str | UnsetType = UNSET
    headers: dict[str, str | list[str]] = {}
    body: Raw | UnsetType = UNSET
    body_base64: str | UnsetType = UNSET
    delay_ms: int | UnsetType = UNSET
    not_before: str | UnsetType = UNSET
    deadline: str | UnsetType = UNSET
    priority: int = 0
    labels: dict[str, str] = {}
    group: GroupOption | UnsetType = UNSET


class BatchItem(Posted, forbid_unknown_fields=True, kw_only=True):
    """An envelope of a batch, with its own idempotency key."""

    idempotency_key: str | UnsetType = UNSET


_POSTED = msgspec.json.Decoder(Posted)
_ITEM = msgspec.json.Decoder(BatchItem)
_BATCH = msgspec.json.Decoder(list[Raw])
_TEXT = msgspec.json.Decoder(str)


def read_envelope(text: bytes, *, key: str | None, max_body_bytes: int, batched: bool = False) -> EnqueueRequest:
    """Check an envelope. `key` is the `Idempotency-Key` it came with; one of a batch (`batched`) carries its own.

    Raises:
        InvalidEnvelope: naming the field.
        EnvelopeTooLarge: its body, decoded, is larger than this.
    """
    posted = _decode(_ITEM if batched else _POSTED, text)
    _check_sizes(posted)
    if isinstance(posted, BatchItem) and posted.idempotency_key is not UNSET:
        key = posted.idempotency_key
        check_key(key, "idempotency_key")
    if not posted.target:
        raise InvalidEnvelope("target must name a target", field="target")
    _check_method(posted.method)
    headers = _headers(posted.headers)
    headers, body, json_body = _content(posted, headers)
    if body is not None and len(body) > max_body_bytes:
        raise EnvelopeTooLarge(f"The body must be at most {max_body_bytes} bytes")
    if posted.delay_ms is not UNSET and posted.not_before is not UNSET:
        raise InvalidEnvelope("delay_ms and not_before exclude each other", field="not_before")
    if not 0 <= posted.priority <= MAX_PRIORITY:
        raise InvalidEnvelope(f"priority must be a whole number from 0 to {MAX_PRIORITY}", field="priority")
    return EnqueueRequest(
        target=posted.target,
        method=posted.method,
        path=None if posted.path is UNSET else _path(posted.path),
        headers=headers,
        body=body,
        json_body=json_body,
        delay_s=None if posted.delay_ms is UNSET else _delay_s(posted.delay_ms),
        not_before_s=None if posted.not_before is UNSET else moment_s(posted.not_before, "not_before"),
        deadline_s=None if posted.deadline is UNSET else moment_s(posted.deadline, "deadline"),
        priority=posted.priority,
        labels=_labels(posted.labels),
        idempotency_key=key,
        group=None if posted.group is UNSET else checked_group(posted.group),
    )


def read_batch(text: bytes) -> list[bytes]:
    """Return the envelopes of a batch, not decoded yet.

    Raises:
        InvalidEnvelope: it is not a JSON array, or too long.
    """
    try:
        items = _BATCH.decode(text)
        text.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidEnvelope(f"The body must be a JSON array of envelopes: {_shown(exc)}") from exc
    if len(items) > MAX_BATCH:
        raise InvalidEnvelope(f"A batch holds at most {MAX_BATCH} envelopes")
    return [bytes(item) for item in items]


def check_key(key: str, field: str) -> None:
    """Refuse a text that is not an idempotency key."""
    if not _KEY.match(key):
        raise InvalidEnvelope(f"An idempotency key is 1 to {MAX_KEY} visible ASCII characters", field=field)


def check_times(submission: EnqueueRequest, now_s: float) -> None:
    """Refuse times that are so far away that queues and calendars cannot hold them."""
    for field, at_s in (("not_before", submission.not_before_s), ("deadline", submission.deadline_s)):
        if at_s is not None and at_s > now_s + MAX_AHEAD_S:
            raise InvalidEnvelope(f"{field} must be within ten years", field=field)


def check_reserved(submission: EnqueueRequest, auth: TargetAuth) -> None:
    """Refuse headers that authenticate the caller, unless the target passes them through."""
    reserved = auth.reserved
    for name, _ in submission.headers:
        if name.lower() not in reserved:
            continue
        if auth.own_header is not None and name.lower() == auth.own_header.lower():
            raise InvalidEnvelope(f"The header {name} is set by the target's own auth", field="headers")
        raise InvalidEnvelope(
            f"The header {name} is sent on by targets with auth: {{scheme: passthrough}} only; this one's scheme is "
            f"{auth.scheme}",
            field="headers",
        )


def unsendable(delivery: Delivery, envelope: Envelope, *, known: bool = False) -> str | None:
    """Return why a delivery of the ledger cannot be sent, by the rules of what is posted; None if it can.

    Rows are written by toril, and by any other program that may write to the ledger. `known`: the same method, path and
    headers were found sendable before.
    """
    if envelope is UNREADABLE:
        return "the envelope cannot be read"
    if not _KEY.match(delivery.job_id):
        return "the job id holds characters that cannot be sent"
    try:
        if delivery.idempotency_key is not None:
            check_key(delivery.idempotency_key, "idempotency_key")
        if not known:
            _check_method(envelope.method)
            if envelope.path is not None:
                _path(envelope.path)
            for name, value in envelope.headers:
                _check_header(name, value)
    except InvalidEnvelope as exc:
        return exc.message
    if isinstance(envelope.content, Stored) and owner(envelope.content.name) != delivery.job_id:
        return "the body is another job's"
    return None


def moment_s(text: str, field: str) -> float:
    """Return an RFC 3339 time with a zone as seconds since the epoch. In UTC, too, its year is 1 to 9999."""
    try:
        if not _TIME.match(text):
            raise ValueError(text)
        return datetime.fromisoformat(text.upper()).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        raise InvalidEnvelope(
            f"{field} must be a time with its zone, such as 2027-01-01T00:00:00Z", field=field
        ) from None


def _decode(decoder: msgspec.json.Decoder[Any], text: bytes) -> Posted:
    try:
        text.decode()  # JSON is UTF-8 (RFC 8259 section 8.1)
        posted: Posted = decoder.decode(text)
    except msgspec.ValidationError as exc:
        message = str(exc)
        found = _FIELD.search(message) or _NAMED.search(message)
        field = found[1][:_MAX_SHOWN] if found else None
        raise InvalidEnvelope(message[: 2 * _MAX_SHOWN], field=field) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidEnvelope(f"The envelope is not JSON: {_shown(exc)}") from exc
    return posted


def _check_sizes(posted: Posted) -> None:
    """Refuse what is too large for a request's head, or for a row's. What is in the ledger already is not asked."""
    if len(posted.target) > MAX_TARGET:
        raise InvalidEnvelope(f"A target's name has at most {MAX_TARGET} characters", field="target")
    if len(posted.method) > MAX_METHOD:
        raise InvalidEnvelope(f"method has at most {MAX_METHOD} characters", field="method")
    if posted.path is not UNSET and len(posted.path) > MAX_PATH_BYTES:
        raise InvalidEnvelope(f"path has at most {MAX_PATH_BYTES} bytes", field="path")
    size_bytes = 0
    for name, values in posted.headers.items():
        for value in (values,) if isinstance(values, str) else values:
            size_bytes += len(name) + len(value) + 4
    if size_bytes > MAX_HEADERS_BYTES:
        raise InvalidEnvelope(f"headers have at most {MAX_HEADERS_BYTES} bytes in sum", field="headers")


def _shown(exc: Exception) -> str:
    if isinstance(exc, UnicodeDecodeError):
        return f"not UTF-8 at byte {exc.start}"
    return "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)


def _check_method(method: str) -> None:
    if not _METHOD.match(method) or method.upper() == "CONNECT":
        raise InvalidEnvelope(f"method {method!r} is not an HTTP method that can be sent", field="method")


def _headers(given: dict[str, str | list[str]]) -> tuple[tuple[str, str], ...]:
    headers = []
    for name, values in given.items():
        _check_header_name(name)
        if name.lower() == "expect":
            raise InvalidEnvelope("The header Expect may not be set: a body is sent at once", field="headers")
        for value in (values,) if isinstance(values, str) else values:
            _check_header(name, value)
            headers.append((name, value))
    return tuple(headers)


def _check_header_name(name: str) -> None:
    if not name.isascii() or not is_header_name(name.encode()):
        raise InvalidEnvelope(f"{name!r} is not the name of a header", field="headers")
    lower = name.lower()
    if lower in NOT_ALLOWED or lower.startswith(_OURS):
        raise InvalidEnvelope(f"The header {name} may not be set", field="headers")


def _check_header(name: str, value: str) -> None:
    _check_header_name(name)
    try:
        sound = is_header_value(value.encode("latin-1"))
    except UnicodeEncodeError:
        sound = False
    if not sound:
        raise InvalidEnvelope(f"The header {name} holds characters that cannot be sent", field="headers")


def _content(
    posted: Posted, headers: tuple[tuple[str, str], ...]
) -> tuple[tuple[tuple[str, str], ...], bytes | None, bytes | None]:
    """Return the headers with a content type, the body, and the body's JSON text if it is sent as JSON."""
    types = [value for name, value in headers if name.lower() == "content-type"]
    if len(types) > 1:
        raise InvalidEnvelope("There is more than one content-type", field="headers")
    if posted.body_base64 is not UNSET:
        if posted.body is not UNSET:
            raise InvalidEnvelope("body and body_base64 exclude each other", field="body_base64")
        try:
            return headers, b64decode(posted.body_base64, validate=True), None
        except (binascii.Error, ValueError):
            raise InvalidEnvelope("body_base64 is not Base64", field="body_base64") from None
    if posted.body is UNSET:
        return headers, None, None
    raw = bytes(posted.body)
    if types and not _is_json(types[0]) and raw.startswith(b'"'):
        try:
            return headers, _TEXT.decode(raw).encode(), None
        except (msgspec.DecodeError, UnicodeEncodeError):
            raise InvalidEnvelope("body is not a text that can be sent", field="body") from None
    if not types:
        headers = (*headers, ("content-type", "application/json"))
    return headers, raw, raw


def _is_json(content_type: str) -> bool:
    media = content_type.partition(";")[0].strip().lower()
    return media in {"application/json", "text/json"} or media.endswith("+json")


def _path(path: str) -> str:
    if not _PATH.match(path):
        raise InvalidEnvelope(
            "path must begin with / or ? and hold no spaces, fragments, control or non-ASCII characters", field="path"
        )
    if has_dot_segments(path.partition("?")[0].encode()):
        raise InvalidEnvelope("path must not hold dot segments", field="path")
    return path


def _delay_s(delay_ms: int) -> float:
    if not 0 <= delay_ms <= MAX_DELAY_S * 1000:
        raise InvalidEnvelope("delay_ms must be a whole number of milliseconds, ten years at most", field="delay_ms")
    return delay_ms / 1000


def _labels(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > MAX_LABELS:
        raise InvalidEnvelope(f"There may be at most {MAX_LABELS} labels", field="labels")
    for name, value in labels.items():
        if not 1 <= len(name) <= MAX_LABEL_NAME or len(value) > MAX_LABEL_VALUE:
            raise InvalidEnvelope(
                f"A label's name has 1 to {MAX_LABEL_NAME} characters, its value at most {MAX_LABEL_VALUE}",
                field="labels",
            )
        if _CONTROL.search(name) or _CONTROL.search(value) or not _encodes(name + value):
            raise InvalidEnvelope("A label holds a character that is none", field="labels")
    return labels


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
