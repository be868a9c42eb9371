"""Spans of what comes over a socket and of what is passed on: when they end, and how."""

from collections.abc import Iterable
from typing import Any

import pytest

from toril.core.errors import JobNotFound
from toril.core.http.headers import Header
from toril.telemetry.tracing.requests import PassedOn, TracedRequests, passed_on, request_trace, sent_over_socket
from toril.telemetry.tracing.spans import Attributes, Kind, SpanOrigin

GIVEN = [(b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]


class Recorded:
    """A span that keeps what became of it."""

    def __init__(self, name: str, parent: Iterable[Header], linked: bool) -> None:
        self.name, self.parent, self.linked = name, list(parent), linked
        self.ends: list[tuple[dict[str, str | int], str | None]] = []

    def context(self) -> list[Header]:
        return [(b"traceparent", self.name.encode())]

    def rename(self, name: str, attributes: Attributes) -> None:
        self.name = name

    def end(self, attributes: Attributes | None = None, error: str | None = None) -> None:
        self.ends.append((dict(attributes or {}), error))


class Recorder:
    """A tracer that keeps its spans."""

    def __init__(self) -> None:
        self.spans: list[Recorded] = []

    def start(
        self,
        kind: Kind,
        name: str,
        attributes: Attributes,
        parent: Iterable[Header],
        *,
        linked: bool = False,
        origin: SpanOrigin | None = None,
    ) -> Recorded:
        self.spans.append(Recorded(name, parent, linked))
        return self.spans[-1]

    def close(self) -> None:
        """Nothing is left."""


async def traced_scope(tracer: Recorder, **scope: Any) -> dict[str, Any]:
    """The scope of a connection, as an application behind the middleware has it."""
    seen: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    async def nothing(*_: Any) -> Any:
        """Is not called."""

    await TracedRequests(app, tracer)({"headers": GIVEN} | scope, nothing, nothing)
    return seen[0]


async def test_a_socket_has_no_span_and_what_is_sent_over_it_is_linked_or_below_what_it_brings() -> None:
    tracer = Recorder()
    scope = await traced_scope(tracer, type="websocket")
    assert tracer.spans == []
    with sent_over_socket(scope, "orders", []) as linked:
        assert tracer.spans[0].ends == []
    with sent_over_socket(scope, "orders", [(b"traceparent", b"brought")]):
        pass
    assert linked == [(b"traceparent", b"send orders")]
    assert [(one.parent, one.linked) for one in tracer.spans] == [
        (GIVEN, True),
        ([(b"traceparent", b"brought")], False),
    ]
    assert [one.ends for one in tracer.spans] == [[({}, None)], [({}, None)]]


@pytest.mark.parametrize(("error", "shown"), [(JobNotFound(), "404"), (RuntimeError(), "cancelled")])
async def test_what_could_not_be_sent_is_an_error(error: Exception, shown: str) -> None:
    tracer = Recorder()
    scope = await traced_scope(tracer, type="websocket")
    with pytest.raises(type(error)), sent_over_socket(scope, "orders", []):
        raise error
    assert tracer.spans[0].ends == [({}, shown)]


def test_without_traces_nothing_is_made() -> None:
    scope: dict[str, Any] = {"headers": GIVEN}
    with sent_over_socket(scope, "orders", GIVEN) as context:
        assert context == []
    assert (passed_on(scope, lambda: "http://a/"), request_trace(scope)) == (None, None)


async def test_a_request_that_is_passed_on_has_a_span_below_its_own() -> None:
    tracer = Recorder()
    scope = await traced_scope(tracer, type="http", method="BREW", path="/x")
    span = passed_on(scope, lambda: "http://me:secret@api:3000/pot")
    assert span is not None
    assert span.context == [(b"traceparent", b"HTTP")]
    assert tracer.spans[1].parent == request_trace(scope) == [(b"traceparent", b"BREW")]


def test_only_the_first_end_of_a_request_that_is_passed_on_counts() -> None:
    recorded = Recorded("GET", [], False)
    span = PassedOn(recorded)
    span.answered(503)
    span.failed("cancelled")
    assert recorded.ends == [({"http.response.status_code": 503}, "503")]
