"""The trace context of a caller (W3C Trace Context and Baggage): from headers into a job, and from there into headers.

A job holds it where BullMQ's own telemetry does: in `opts.tm`, a JSON object of header names and values. Contexts are
passed on as they came. What is not valid is left out, and never a reason to refuse a request.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

import msgspec

from toril.core.http.headers import Header, is_header_value

NAMES = (b"traceparent", b"tracestate", b"baggage")
"""The headers of a trace context, in lower case."""

_NAMES = frozenset(NAMES)

MAX_BYTES = 8192
"""A longer `tracestate` or `baggage` is left out; this is the most that the Baggage specification asks for."""

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?\Z")
_LINE = re.compile(rb"^(%b):[ \t]*([^\r\n]*)\r\n" % b"|".join(NAMES), re.IGNORECASE | re.MULTILINE)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, str]).decode


def trace_headers(headers: Iterable[Header]) -> list[Header]:
    """Return the trace context in the headers of a request, whose names are in lower case; empty where there is none.

    Several `tracestate` or `baggage` are joined. `tracestate` means nothing without a valid `traceparent`.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _NAMES:
            found[name] = value if name not in found or name == b"traceparent" else b"%b,%b" % (found[name], value)
    return _valid(found) if found else []


def metadata(context: Iterable[Header]) -> str:
    """Return a trace context as BullMQ's telemetry stores it in a job."""
    return _encode({name.decode(): value.decode("latin-1") for name, value in context}).decode()


def stored_headers(stored: str, given: Container[bytes] = ()) -> list[Header]:
    """Return the trace context that a job holds, without headers that are `given` already, in lower case."""
    try:
        found = _decode(stored)
        context = {name: found[name.decode()].encode("latin-1") for name in NAMES if name.decode() in found}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return []  # another program's
    return [pair for pair in _valid(context) if pair[0] not in given]


def headers_in(head: bytes) -> list[Header]:
    """Return the trace context in the lines of a request's head."""
    return trace_headers((name.lower(), value) for name, value in _LINE.findall(head))


def _valid(found: dict[bytes, bytes]) -> list[Header]:
    if not _PARENT.match(found.get(b"traceparent", b"")):
        found.pop(b"traceparent", None)
        found.pop(b"tracestate", None)
    return [
        (name, found[name])
        for name in NAMES
        if 0 < len(found.get(name, b"")) <= MAX_BYTES and is_header_value(found[name])
    ]
