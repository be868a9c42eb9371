"""Spans as the rooms see them. Without a tracer nothing of this happens, and contexts are passed on as they came.

A span is handed on as the headers of its context (`toril.core.http.trace_context`): to a job, and to a request.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Literal, Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from toril.core.http.headers import Header, header_lines
from toril.core.http.trace_context import headers_in, stored_headers
from toril.core.lease import Lease

Kind = Literal["server", "producer", "consumer", "client"]
Attributes = Mapping[str, str | int]

FAN_OUT: Header = (b"toril-fan-out", b"1")
"""A mark in the stored context of a job that came with others: its attempts are linked to what sent them."""
PROMPT_MS = 60_000
"""An attempt that begins later after its job was added begins another trace."""

_TRACE_LINES = re.compile(rb"^(?:traceparent|tracestate):[^\r\n]*\r\n", re.IGNORECASE | re.MULTILINE)


class SpanOrigin(Struct, frozen=True):
    """The ids of a span, and when it began (wall clock). With them another instance can begin the same span."""

    trace_id: int
    span_id: int
    began_ms: int


class Span(Protocol):
    """A span that has begun."""

    def context(self) -> list[Header]:
        """Return the headers by which what follows belongs to it."""
        ...

    def rename(self, name: str, attributes: Attributes) -> None:
        """Give it a better name, and more attributes."""
        ...

    def end(self, attributes: Attributes | None = None, error: str | None = None) -> None:
        """End it; `error` is the type of what went wrong."""
        ...


class Tracer(Protocol):
    """Makes spans."""

    def start(
        self,
        kind: Kind,
        name: str,
        attributes: Attributes,
        parent: Iterable[Header],
        *,
        linked: bool = False,
        origin: SpanOrigin | None = None,
    ) -> Span:
        """Begin a span below the one that these headers name, or `linked` to it, at the root of another trace.

        With an origin it has these ids, the trace's only at a root, and began then. A span that is not ended is not
        sent, and its context may be used all the same.
        """
        ...

    def close(self) -> None:
        """Send what is left, within seconds. Blocks."""
        ...


def context_of(head: bytes, lease: Lease) -> list[Header]:
    """Return the trace context that an attempt continues: that of the job, or of the request that it makes."""
    if lease.options.trace:
        return stored_headers(lease.options.trace)
    return headers_in(head)


def continuing(head: bytes, context: Iterable[Header]) -> bytes:
    """Return the head of a request with another span's context; baggage stays."""
    return _TRACE_LINES.sub(b"", head) + header_lines(pair for pair in context if pair[0] != b"baggage")


def is_prompt(lease: Lease, now_ms: int) -> bool:
    """Return True if an attempt continues the trace that added its job: the first one, made soon, of a single job.

    Retries, delayed jobs, children of flows and jobs that were added with others are only linked to it.
    """
    fields = lease.fields
    if lease.attempt > 1 or b"parentKey" in fields or _was_delayed(lease.options.text):
        return False
    if lease.options.trace and FAN_OUT[0].decode() in lease.options.trace:
        return False
    added_ms = fields.get(b"timestamp", b"")
    return not added_ms.isdigit() or now_ms - int(added_ms) < PROMPT_MS


def origin_of(lease: Lease) -> SpanOrigin:
    """Return the origin of the span of a leased job's attempt, the same on every instance.

    The ids are a digest of the lock token, which cannot be found from them. BullMQ notes when an attempt began.
    """
    digest = hashlib.sha256(b"toril's span of " + lease.token).digest()
    begun = lease.fields.get(b"processedOn", b"")
    ids = int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:24], "big") or 1
    return SpanOrigin(*ids, int(begun) if begun.isdigit() else 0)


def client_attributes(method: str, url: str) -> dict[str, str | int]:
    """Return the attributes of a request that is made. Queries and user names are left out: secrets may stand there."""
    parts = urlsplit(url)
    return {
        "http.request.method": method,
        "url.full": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
        "server.address": parts.hostname or "",
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
    }


class _Delayed(Struct):
    delay: float = 0.0


_delayed = msgspec.json.Decoder(_Delayed).decode


def _was_delayed(options: bytes) -> bool:
    """Return True for the options of a job that was added with a delay; BullMQ clears the field of the job itself."""
    try:
        return _delayed(options).delay > 0
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def trace_ids(context: Iterable[Header]) -> dict[str, str]:
    """Return the ids of the span in a context, as they stand in log lines."""
    parent = dict(context).get(b"traceparent", b"").decode().split("-")
    return {"trace_id": parent[1], "span_id": parent[2]} if len(parent) >= 4 else {}
