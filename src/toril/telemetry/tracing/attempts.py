"""Spans of attempts and settlements, by OpenTelemetry's conventions for messaging and HTTP.

An attempt is a span `process`, and below it one of the request that it makes; both end with its outcome. Writing the
verdict is a span `settle`. No span lasts while a job waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import urlsplit

from toril.core.destination import OutboundRequest
from toril.core.http.headers import Header
from toril.core.lease import Lease
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut
from toril.core.ports import Now
from toril.core.verdict import Verdict
from toril.telemetry.tracing.spans import Span, Tracer, context_of, continuing, is_prompt

T = TypeVar("T")


class AttemptTracing:
    """Makes the spans of attempts.

    Args:
        tracer: makes spans.
        now: the wall clock.
    """

    def __init__(self, tracer: Tracer, now: Now) -> None:
        self._tracer = tracer
        self._now = now

    async def attempt(
        self, url: str, lease: Lease, request: OutboundRequest, send: Callable[[OutboundRequest], Awaitable[Outcome]]
    ) -> Outcome:
        """Make an attempt with `send`; the request continues its trace."""
        linked = not is_prompt(lease, int(self._now() * 1000))
        attributes = _messaging(lease, "process", "process") | {"toril.attempt": lease.attempt}
        parent = context_of(request.head, lease)
        process = self._tracer.start("consumer", f"process {lease.queue}", attributes, parent, linked=linked)
        lease.trace = process.context()
        client = self._client(url, lease, request, lease.trace)
        error: str | None = "cancelled"
        ending: dict[str, str | int] = {}
        try:
            outcome = await send(request)
            error = _error_of(outcome)
            if isinstance(outcome, Answered):
                ending["http.response.status_code"] = outcome.status
        finally:
            if client is not None:
                client.end(ending, error)
            process.end(error=error)
        return outcome

    def _client(self, url: str, lease: Lease, request: OutboundRequest, parent: list[Header]) -> Span | None:
        """Begin the span of an HTTP request, which then carries its context; None where none is made."""
        line = request.head.partition(b"\r\n")[0].split(b" ")
        if request.fault or len(line) != 3:
            return None
        method = line[0].decode("latin-1")
        parts = urlsplit(url)
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "url.full": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}",
            "server.address": parts.hostname or "",
            "server.port": parts.port or (443 if parts.scheme == "https" else 80),
        }
        if lease.attempt > 1:
            attributes["http.request.resend_count"] = lease.attempt - 1
        client = self._tracer.start("client", method, attributes, parent)
        request.head = continuing(request.head, client.context())
        return client

    async def settlement(self, lease: Lease, verdict: Verdict, writing: Awaitable[T]) -> T:
        """Wait until a verdict is written."""
        attributes = _messaging(lease, "settle", "settle") | {"toril.verdict": type(verdict).__name__}
        span = self._tracer.start("client", f"settle {lease.queue}", attributes, lease.trace or ())
        try:
            return await writing
        finally:
            span.end()


def _messaging(lease: Lease, name: str, kind: str) -> dict[str, str | int]:
    return {
        "messaging.system": "bullmq",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": lease.queue,
        "messaging.message.id": lease.job_id.decode(errors="replace"),
    }


def _error_of(outcome: Outcome) -> str | None:
    match outcome:
        case Answered(status=status):
            return str(status) if status >= 400 else None
        case Replied(error=error):
            return None if error is None else "worker_error"
        case TimedOut():
            return "timeout"
        case ConnectFailed(code=code) | CutOff(code=code):
            return code
