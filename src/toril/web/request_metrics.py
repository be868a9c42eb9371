"""Middleware that measures the requests of all doors. Callers cannot add values to its labels."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from toril.core.http.headers import Header
from toril.core.metrics import ACCEPT_SECONDS, OTHER, REQUEST_SECONDS, UNMETERED, Metric
from toril.core.ports import Meter
from toril.telemetry.tracing.requests import request_trace
from toril.web.raw_target import CYCLE

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""The methods that are told apart; any other one is `other`."""
NO_ROUTE = "none"
NO_ANSWER = "none"
# Made once: a text for each answer would cost as much as counting it.
CLASSES = {status: f"{status // 100}xx" for status in range(100, 600)}
"""The class of a status that is toril's own."""
UPSTREAM_CLASSES = {status: f"upstream_{status // 100}xx" for status in range(100, 1000)}
"""The class of a status that an upstream has answered."""
_METHODS = {method: method for method in METHODS}
_OBSERVED = "toril.observed"
_ANSWERED: Scope = {}
"""Stands for the scope of a request that has been answered, which refers to its `Observed`: without the circle both are
freed at once.
"""


def method_label(method: str) -> str:
    """Return a method as a label."""
    return _METHODS.get(method, OTHER)


class Observed:
    """The `send` of one request, which is measured from its beginning to the head of its response.

    What follows the head takes as long as the caller likes, a stream of events for days, so it is not measured. `began`
    is when the request came (`perf_counter`); `begun` says whether the head of the response has been sent.
    """

    __slots__ = ("_meter", "_scope", "_send", "began", "begun")

    def __init__(self, meter: Meter, scope: Scope, send: Send) -> None:
        self.begun = False
        self._meter = meter
        self._scope = scope
        self._send = send
        self.began = perf_counter()

    def __call__(self, message: Message) -> Awaitable[None]:
        """Part of ASGI."""
        if not self.begun:
            if "status" in message:
                self._head(message["status"], message.get("headers", ()))
            elif message["type"] == "websocket.accept":
                self.begun = True
                self._observe("1xx")
        return self._send(message)

    def answer(self, status: int, headers: Sequence[Header], body: bytes | memoryview) -> bool:
        """Send a whole response in one step; return False, and send nothing, where that cannot be done.

        It can where toril's own server waits for it (`toril.server.request_cycle`), and no middleware stands between
        that would have to see ASGI's messages.
        """
        cycle = self._scope.get(CYCLE)
        if cycle is None or self._send != cycle.send or not cycle.answer(status, headers, bytes(body)):
            return False
        self._head(status, headers)
        self._scope = _ANSWERED
        return True

    def answer_typed(self, status: int, content_type: bytes, body: bytes) -> bool:
        """Send a whole response as `answer`, with no headers but its type and its length."""
        cycle = self._scope.get(CYCLE)
        if cycle is None or self._send != cycle.send or not cycle.answer_typed(status, content_type, body):
            return False
        self._head(status, ())
        self._scope = _ANSWERED
        return True

    @property
    def template(self) -> str:
        """The path template of the request's route."""
        return getattr(self._scope.get("route"), "path", NO_ROUTE)

    @contextmanager
    def open(self, metric: Metric) -> Iterator[None]:
        """Count a stream or a socket as open during a block."""
        labels = (self.template,)
        self._meter.count(metric, labels)
        try:
            yield
        finally:
            self._meter.count(metric, labels, -1.0)

    def ended(self) -> None:
        """Record that nothing more is sent: a request without a response got none because its caller hung up."""
        if not self.begun:
            self.begun = True
            self._observe(NO_ANSWER)

    def _head(self, status: int, headers: Iterable[Header]) -> None:
        self.begun = True
        took_s = perf_counter() - self.began
        scope = self._scope
        route: Any = scope.get("route")
        labels = getattr(route, "labels", None)
        if labels is None:
            self._observe(CLASSES.get(status, OTHER))
            return
        trace = request_trace(scope)
        self._meter.observe(REQUEST_SECONDS, labels(scope.get("method", "GET"), status, headers), took_s, trace)
        if route.door and status < 300:
            self._meter.observe(ACCEPT_SECONDS, (route.door,), took_s, trace)

    def _observe(self, status: str) -> None:
        labels = (method_label(self._scope.get("method", "GET")), self.template, status)
        self._meter.observe(REQUEST_SECONDS, labels, perf_counter() - self.began, request_trace(self._scope))


class RequestMetrics:
    """The middleware. Response classes and error handlers get its object for a request with `observed`."""

    def __init__(self, app: ASGIApp, meter: Meter = UNMETERED) -> None:
        self.app = app
        self._meter = meter

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            return self.app(scope, receive, send)
        sending = scope[_OBSERVED] = Observed(self._meter, scope, send)
        return self.app(scope, receive, sending)


async def _unsent(message: Message) -> None:
    """Stand in for `send` if a response is made without the middleware, as in unit tests."""


def observed(scope: Scope) -> Observed:
    """Return the `Observed` of the request with this scope."""
    found: Observed | None = scope.get(_OBSERVED)
    return found or Observed(UNMETERED, scope, _unsent)
