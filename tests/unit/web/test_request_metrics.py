"""What is measured of requests, streams and sockets."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.responses import Response

from tests.unit.web.asgi import Body, application, ask, scope
from toril.core.errors import InvalidRequest
from toril.core.metrics import ACCEPT_SECONDS, OPEN_SOCKETS, OPEN_STREAMS, REQUEST_SECONDS
from toril.testing import FakeMeter
from toril.web.access_control import Access
from toril.web.application import Application
from toril.web.event_stream import SSE
from toril.web.request import Request
from toril.web.responses import BytesResponse, StreamResponse
from toril.web.routing import Route, SocketRoute
from toril.web.websocket import WebSocket

TOKEN = [(b"authorization", b"Bearer secret")]
ADD = "/queues/{queue}/jobs"


async def add(asked: Request) -> Response:
    if asked.queue == "bad":
        raise InvalidRequest
    return BytesResponse()


def gateway(meter: FakeMeter, *routes: Route | SocketRoute) -> Application:
    return application([Route(ADD, add, method="POST", door="queues"), *routes], meter=meter)


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


async def test_a_request_that_adds_jobs_counts_as_an_acceptance_unless_refused() -> None:
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

    async def stream(asked: Request) -> StreamResponse:
        return StreamResponse(b"first", parts(), SSE)

    receive = Body({"type": "http.request", "body": b"", "more_body": False})

    async def then_wait() -> dict[str, Any]:
        return await receive() if receive.unread else await asyncio.Future()

    async def send(message: dict[str, Any]) -> None:
        pass

    await gateway(meter, Route("/events", stream, access=Access.OPEN))(scope("GET", "/events"), then_wait, send)
    key = (OPEN_STREAMS, ("/events",))
    assert [counts[key] for counts in seen] == [1]
    assert meter.counts[key] == 0
    assert [labels for labels, _ in meter.values(REQUEST_SECONDS)] == [("GET", "/events", "2xx")]


@pytest.mark.parametrize(("headers", "status"), [(TOKEN, "1xx"), ([], "4xx")])
async def test_a_socket_is_open_until_it_is_closed(headers: list[tuple[bytes, bytes]], status: str) -> None:
    meter, seen = FakeMeter(), []

    async def listen(socket: WebSocket) -> None:
        async def serve() -> None:
            seen.append(dict(meter.counts))

        await socket.serve(serve)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        pass

    asked = scope("GET", "/ws", headers=headers) | {"type": "websocket", "subprotocols": []}
    app = gateway(meter, SocketRoute("/ws", listen))
    await app(asked, receive, send)
    assert [labels for labels, _ in meter.values(REQUEST_SECONDS)] == [("GET", "/ws", status)]
    if status == "1xx":
        key = (OPEN_SOCKETS, ("/ws",))
        assert [counts[key] for counts in seen] == [1]
        assert meter.counts[key] == 0
    else:
        assert seen == []
        assert meter.counts == {}
