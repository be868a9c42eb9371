"""Spans of attempts and settlements, by OpenTelemetry's conventions for messaging and HTTP.

An attempt is a span `process`, and below it one of the request that it makes; both end with its outcome. Writing the
verdict is a span `settle`. No span lasts while a job waits.

A worker that leases a job over HTTP may settle it at another instance: the span of its attempt is made there, from its
beginning to the settlement. Its ids come from the lock token, so that the worker has them from the lease on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from toril.core.destination import OutboundRequest
from toril.core.errors import TorilError
from toril.core.http.headers import Header
from toril.core.http.trace_context import stored_headers
from toril.core.lease import Lease
from toril.core.outcome import Answered, ConnectFailed, CutOff, Outcome, Replied, TimedOut
from toril.core.ports import Now
from toril.telemetry.tracing.spans import (
    Span,
    SpanOrigin,
    Tracer,
    client_attributes,
    context_of,
    continuing,
    is_prompt,
    origin_of,
)

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

    def begin(self, url: str, lease: Lease, request: OutboundRequest) -> TracedAttempt:
        """Begin the spans of an attempt; the request continues its trace. Then `TracedAttempt.send` it."""
        process = self._process(lease, context_of(request.head, lease), int(self._now() * 1000))
        lease.trace = process.context()
        client = self._client(url, lease, request, lease.trace)
        request.head = continuing(request.head, lease.trace if client is None else client.context())
        return TracedAttempt(process, client, request)

    def _process(self, lease: Lease, parent: Iterable[Header], began_ms: int, origin: SpanOrigin | None = None) -> Span:
        attributes = _messaging(lease, "process") | {"toril.attempt": lease.attempt}
        linked = not is_prompt(lease, began_ms)
        return self._tracer.start(
            "consumer", f"process {lease.queue}", attributes, parent, linked=linked, origin=origin
        )

    def _client(self, url: str, lease: Lease, request: OutboundRequest, parent: list[Header]) -> Span | None:
        """Begin the span of an HTTP request; None where none is made."""
        line = request.head.partition(b"\r\n")[0].split(b" ")
        if request.fault or len(line) != 3:
            return None
        method = line[0].decode("latin-1")
        attributes = client_attributes(method, url)
        if lease.attempt > 1:
            attributes["http.request.resend_count"] = lease.attempt - 1
        return self._tracer.start("client", method, attributes, parent)

    def leased(self, lease: Lease) -> Span:
        """Begin the span of the attempt of a job that a worker has leased, and set its context.

        It is sent if it is ended, which is for the instance that settles the job.
        """
        origin = origin_of(lease)
        process = self._process(lease, stored_headers(lease.options.trace), origin.began_ms, origin)
        lease.trace = process.context()
        return process

    async def settlement(
        self, lease: Lease, verdict: str, writing: Awaitable[T], parent: Iterable[Header] | None = None
    ) -> T:
        """Wait until a verdict is written, by default in the span of the attempt."""
        attributes = _messaging(lease, "settle") | {"toril.verdict": verdict}
        before = (lease.trace or ()) if parent is None else parent
        span = self._tracer.start("client", f"settle {lease.queue}", attributes, before)
        error: str | None = "cancelled"
        try:
            written = await writing
            error = None
        except TorilError as exc:
            error = exc.code
            raise
        finally:
            span.end(error=error)
        return written


class TracedAttempt:
    """An attempt whose spans have begun. `request` carries their context."""

    __slots__ = ("_client", "_process", "request")

    def __init__(self, process: Span, client: Span | None, request: OutboundRequest) -> None:
        self._process = process
        self._client = client
        self.request = request

    async def send(self, send: Callable[[OutboundRequest], Awaitable[Outcome]]) -> Outcome:
        """Make the request with `send`, and end the spans with its outcome."""
        error: str | None = "cancelled"
        ending: dict[str, str | int] = {}
        try:
            outcome = await send(self.request)
            error = _error_of(outcome)
            if isinstance(outcome, Answered):
                ending["http.response.status_code"] = outcome.status
        finally:
            if self._client is not None:
                self._client.end(ending, error)
            self._process.end(error=error)
        return outcome


def _messaging(lease: Lease, operation: str) -> dict[str, str | int]:
    return {
        "messaging.system": "bullmq",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
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
