"""Spans of the requests that come in, by OpenTelemetry's stable conventions for HTTP, and of what they send."""

from __future__ import annotations

from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toril.core.http.headers import Header
from toril.core.http.trace_context import trace_headers
from toril.telemetry.tracing.spans import FAN_OUT, Span, Tracer, trace_ids

_SPAN = "toril.span"
"""A key of the scope: the `_RequestSpan` of a request that is traced."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})


class _RequestSpan:
    """The spans of one request: its own, and those of what it sends. All end with the head of its answer."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._sent: list[Span] = []

    def send(self, destination: str, count: int) -> list[Header]:
        """Begin the span of sending messages; return the context that they carry."""
        attributes: dict[str, str | int] = {
            "messaging.system": "bullmq",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": destination,
        }
        if count > 1:
            attributes["messaging.batch.message_count"] = count
        sent = self._tracer.start("producer", f"send {destination}", attributes, self._span.context())
        self._sent.append(sent)
        return sent.context()

    def end(self, scope: Scope, status: int) -> None:
        """End them; `status` is that of the answer, 0 without one."""
        error = str(status) if status >= 500 else "cancelled" if not status else None
        for sent in self._sent:
            sent.end(error=error if status < 400 else str(status))
        template = getattr(scope.get("route"), "path", "")
        method = scope["method"] if scope["method"] in _METHODS else "HTTP"
        self._span.rename(f"{method} {template}".rstrip(), {"http.route": template} if template else {})
        self._span.end({"http.response.status_code": status} if status else {}, error)


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
            await self.app(scope, receive, send)
            return
        headers = scope["headers"]
        span = self._tracer.start("server", scope["method"], _attributes(scope), trace_headers(headers))
        spans = scope[_SPAN] = _RequestSpan(self._tracer, span)
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                spans.end(scope, status)
            await send(message)

        try:
            with structlog.contextvars.bound_contextvars(**trace_ids(span.context())):
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
