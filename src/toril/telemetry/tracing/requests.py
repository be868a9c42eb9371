"""Spans of the requests that come in, by OpenTelemetry's stable conventions for HTTP, of what they send, and of those
that are passed on.

A WebSocket has no span, since it may be open for days; what is sent over it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toril.core.errors import TorilError
from toril.core.http.headers import Header
from toril.core.http.trace_context import trace_headers
from toril.telemetry.tracing.spans import FAN_OUT, Attributes, Span, Tracer, client_attributes, trace_ids

_SPAN = "toril.span"
"""A key of the scope: the `_RequestSpan` of a request that is traced."""
_SOCKET = "toril.traced_socket"
"""A key of the scope: the tracer of a WebSocket that is traced."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})


class _RequestSpan:
    """The spans of one request: its own, whose context is `context`, and those of what it sends.

    All end with the head of its answer.
    """

    def __init__(self, tracer: Tracer, span: Span, method: str) -> None:
        self._tracer = tracer
        self._span = span
        self._method = method
        self._sent: list[Span] = []
        self.context = span.context()

    def send(self, destination: str, count: int) -> list[Header]:
        """Begin the span of sending messages; return the context that they carry."""
        attributes: dict[str, str | int] = _sending(destination)
        if count > 1:
            attributes["messaging.batch.message_count"] = count
        sent = self._tracer.start("producer", f"send {destination}", attributes, self.context)
        self._sent.append(sent)
        return sent.context()

    def pass_on(self, url: str) -> PassedOn:
        """Begin the span of passing it on to a URL."""
        attributes = client_attributes(self._method if self._method in _METHODS else "_OTHER", url)
        name = self._method if self._method in _METHODS else "HTTP"
        return PassedOn(self._tracer.start("client", name, attributes, self.context))

    def end(self, scope: Scope, status: int) -> None:
        """End them; `status` is that of the answer, 0 without one."""
        error = str(status) if status >= 500 else "cancelled" if not status else None
        for sent in self._sent:
            sent.end(error=error if status < 400 else str(status))
        template = getattr(scope.get("route"), "path", "")
        method = scope["method"] if scope["method"] in _METHODS else "HTTP"
        self._span.rename(f"{method} {template}".rstrip(), {"http.route": template} if template else {})
        self._span.end({"http.response.status_code": status} if status else {}, error)


def _sending(destination: str) -> dict[str, str | int]:
    return {
        "messaging.system": "bullmq",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": destination,
    }


class PassedOn:
    """The span of a request that is passed on, until the head of its answer. Only its first end counts."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._ended = False
        self.context = span.context()

    def answered(self, status: int) -> None:
        """End it with the head of an answer."""
        self._end({"http.response.status_code": status}, str(status) if status >= 400 else None)

    def failed(self, error: str) -> None:
        """End it without an answer."""
        self._end({}, error)

    def _end(self, attributes: Attributes, error: str | None) -> None:
        if not self._ended:
            self._ended = True
            self._span.end(attributes, error)


def request_trace(scope: Scope) -> Sequence[Header] | None:
    """Return the context of a request's span; None where it is not traced."""
    spans: _RequestSpan | None = scope.get(_SPAN)
    return None if spans is None else spans.context


def passed_on(scope: Scope, url: Callable[[], str]) -> PassedOn | None:
    """Begin the span of passing a request on to a URL, which is asked for only then; None where it is not traced."""
    spans: _RequestSpan | None = scope.get(_SPAN)
    return None if spans is None else spans.pass_on(url())


@contextmanager
def sent_over_socket(scope: Scope, destination: str, given: Sequence[Header]) -> Iterator[list[Header]]:
    """Make a span of sending a message that came over a WebSocket; yield the context that it carries.

    It is below the context that is `given` with the message. Without one it is the root of a trace that is linked to
    the context of the handshake, since a trace of all that comes over a socket would have no end. Where nothing is
    traced, the message carries what it was given.
    """
    tracer: Tracer | None = scope.get(_SOCKET)
    if tracer is None:
        yield []
        return
    parent = given or trace_headers(scope["headers"])
    span = tracer.start("producer", f"send {destination}", _sending(destination), parent, linked=not given)
    error: str | None = "cancelled"
    try:
        yield span.context()
        error = None
    except TorilError as exc:
        error = str(exc.status)
        raise
    finally:
        span.end(error=error)


def sent_trace(scope: Scope, destination: str, count: int = 1) -> list[Header]:
    """Return the trace context for what a request sends to a queue or target: that of the caller, or of a new span.

    Jobs that come with others have a mark in it, so that each begins another trace.
    """
    spans: _RequestSpan | None = scope.get(_SPAN)
    if spans is None:
        return trace_headers(scope["headers"])
    found = spans.send(destination, count)
    return [*found, FAN_OUT] if count > 1 else found


class TracedRequests:
    """Middleware that makes a span of each request, from its head to the head of its answer."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self.app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            scope[_SOCKET] = self._tracer
            await self.app(scope, receive, send)
            return
        headers = scope["headers"]
        span = self._tracer.start("server", scope["method"], _attributes(scope), trace_headers(headers))
        spans = scope[_SPAN] = _RequestSpan(self._tracer, span, scope["method"])
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                spans.end(scope, status)
            await send(message)

        try:
            with structlog.contextvars.bound_contextvars(**trace_ids(spans.context)):
                await self.app(scope, receive, sending)
        finally:
            if not status:
                spans.end(scope, 0)


def _attributes(scope: Scope) -> dict[str, str | int]:
    """Return what is known of a request before it is served. The query is left out: a token may stand in it."""
    found: dict[str, Any] = {
        "http.request.method": scope["method"] if scope["method"] in _METHODS else "_OTHER",
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "network.protocol.version": scope.get("http_version", "1.1"),
    }
    if scope.get("client"):
        found["client.address"] = scope["client"][0]
    for name, value in scope["headers"]:
        if name == b"host":
            found["server.address"] = value.decode("latin-1")
        elif name == b"user-agent":
            found["user_agent.original"] = value.decode("latin-1")
    return found
