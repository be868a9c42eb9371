"""What the gateway measures of requests, streams and sockets, and `/metrics` itself."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from tests.unit.gateway.asgi import Body, ask, request, scope
from toril.core.access import Caller, Right
from toril.core.errors import InvalidRequest
from toril.core.metrics import ACCEPT_SECONDS, OPEN_SOCKETS, OPEN_STREAMS, REQUEST_SECONDS
from toril.gateway.admission import Admission
from toril.gateway.app import Gateway
from toril.gateway.auth import Tokens
from toril.gateway.metrics import MetricsRoutes
from toril.gateway.routing import Access, Answer, Request, Route, Serve, SocketRoute, Stream
from toril.gateway.sockets.socket import Socket
from toril.testing import FakeMeter, FakeRates

TOKEN = [(b"authorization", b"Bearer secret")]
ADD = "/queues/{queue}/jobs"


async def add(asked: Request) -> Answer:
    if asked.segment(1) == "bad":
        raise InvalidRequest
    return Answer(200, b"text/plain", b"")


def gateway(meter: FakeMeter, *routes: Route, sockets: tuple[SocketRoute, ...] = ()) -> Gateway:
    admission = Admission(Tokens(("secret",)), FakeRates(lambda: 0.0))
    return Gateway([Route("POST", ADD, Access.TOKEN, add, door="queues"), *routes], admission, sockets, meter)


@pytest.mark.parametrize(
    ("method", "path", "labels"),
    [
        ("POST", "/queues/orders/jobs", ("POST", ADD, "2xx")),
        ("POST", "/queues/bad/jobs", ("POST", ADD, "4xx")),
        ("GET", "/queues/orders/jobs", ("GET", "none", "4xx")),
        ("MADE-UP-BY-SOMEBODY", "/any/path", ("other", "none", "4xx")),
    ],
)
async def test_requests_are_told_by_the_route_and_never_by_the_path(
    method: str, path: str, labels: tuple[str, str, str]
) -> None:
    meter = FakeMeter()
    await ask(gateway(meter), scope(method, path, headers=TOKEN))
    ((found, took_s),) = meter.values(REQUEST_SECONDS)
    assert found == labels
    assert took_s >= 0


async def test_what_adds_jobs_is_an_acceptance_unless_it_is_refused() -> None:
    meter = FakeMeter()
    for queue in ("bad", "orders"):
        await ask(gateway(meter), scope("POST", f"/queues/{queue}/jobs", headers=TOKEN))
    await ask(gateway(meter), scope("POST", "/queues/orders/jobs"))
    assert [labels for labels, _ in meter.values(ACCEPT_SECONDS)] == [("queues",)]


async def test_a_stream_is_open_until_it_ends() -> None:
    meter, seen = FakeMeter(), []

    async def parts() -> AsyncGenerator[bytes, None]:
        seen.append(dict(meter.counts))
        yield b"part"

    async def stream(asked: Request) -> Stream:
        return Stream(b"text/event-stream", b"first", parts())

    receive = Body({"type": "http.request", "body": b"", "more_body": False})

    async def then_wait() -> dict[str, Any]:
        return await receive() if receive.unread else await asyncio.Future()

    async def send(message: dict[str, Any]) -> None:
        pass

    await gateway(meter, Route("GET", "/events", Access.OPEN, stream))(scope("GET", "/events"), then_wait, send)
    key = (OPEN_STREAMS, ("/events",))
    assert [counts[key] for counts in seen] == [1]
    assert meter.counts[key] == 0
    assert [labels for labels, _ in meter.values(REQUEST_SECONDS)] == [("GET", "/events", "2xx")]


@pytest.mark.parametrize(("headers", "status"), [(TOKEN, "1xx"), ([], "4xx")])
async def test_a_socket_is_open_until_it_is_closed(headers: list[tuple[bytes, bytes]], status: str) -> None:
    meter, seen = FakeMeter(), []

    async def opened(asked: Request) -> Serve:
        async def serve(socket: Socket) -> None:
            seen.append(dict(meter.counts))

        return serve

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        pass

    asked = scope("GET", "/ws", headers=headers) | {"type": "websocket", "subprotocols": []}
    app = gateway(meter, sockets=(SocketRoute("/ws", Access.TOKEN, opened),))
    await app(asked, receive, send)
    assert [labels for labels, _ in meter.values(REQUEST_SECONDS)] == [("GET", "/ws", status)]
    if status == "1xx":
        key = (OPEN_SOCKETS, ("/ws",))
        assert [counts[key] for counts in seen] == [1]
        assert meter.counts[key] == 0
    else:
        assert seen == []
        assert meter.counts == {}


async def test_metrics_are_shown_as_far_as_the_caller_may_see_queues() -> None:
    class Shown:
        async def text(self, sees: Callable[[str], bool]) -> tuple[bytes, bytes]:
            return b"text/plain; version=0.0.4", f"ours {sees('ours')} theirs {sees('theirs')}".encode()

    asked = request("/metrics")
    asked.caller = Caller("prometheus", frozenset({Right.METRICS_READ}), ("ours",))
    answer = await MetricsRoutes(Shown()).metrics(asked)
    assert (answer.status, answer.content_type) == (200, b"text/plain; version=0.0.4")
    assert answer.body == b"ours True theirs False"
