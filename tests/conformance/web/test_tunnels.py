"""WebSockets that pass through, between a real client and a real server: the package websockets on both ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.http11 import Request, Response

from tests.conformance.web.passing import WAIT_S, Passing, passing, serving
from tests.support.upstream import read_head

Handler = Callable[[ServerConnection], Awaitable[None]]


async def echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


@asynccontextmanager
async def tunnelled(handler: Handler = echo, **options: Any) -> AsyncIterator[Passing]:
    """A WebSocket server, and a server of ours that passes everything on to it."""
    async with serve(handler, "127.0.0.1", 0, **options) as upstream:
        port = next(iter(upstream.sockets)).getsockname()[1]
        async with passing(port) as server:
            yield server


def to(server: Passing, target: str = "/", **options: Any) -> connect:
    """A client that is not told of proxies, nor in a hurry."""
    return connect(f"ws://127.0.0.1:{server.port}{target}", proxy=None, open_timeout=WAIT_S, **options)


async def test_texts_and_bytes_come_back_and_the_handshake_arrives_as_it_was_sent() -> None:
    seen: list[Request] = []

    def note(_: ServerConnection, request: Request) -> None:
        seen.append(request)

    async with (
        tunnelled(process_request=note, subprotocols=["b", "a"]) as server,
        to(server, "/a%2Fb?c=%20+d", subprotocols=["a", "b"], additional_headers={"X-One": "1"}) as socket,
    ):
        assert socket.subprotocol == "b"
        await socket.send("tëxt")
        assert await socket.recv() == "tëxt"
        await socket.send(b"\0\xff")
        assert await socket.recv() == b"\0\xff"
    assert seen[0].path == "/a%2Fb?c=%20+d"
    assert seen[0].headers["x-one"] == "1"
    assert seen[0].headers["host"] == f"127.0.0.1:{server.upstream_port}"
    assert seen[0].headers["x-forwarded-host"] == f"127.0.0.1:{server.port}"
    assert seen[0].headers["x-forwarded-for"] == "127.0.0.1"


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_large_messages_pass_whole_or_in_fragments(compression: str | None) -> None:
    size = 20 * 2**20  # more than the queues door takes
    async with (
        tunnelled(max_size=None, compression=compression) as server,
        to(server, max_size=None, compression=compression, ping_interval=None) as socket,
    ):
        await socket.send(b"\xab" * size)
        assert await asyncio.wait_for(socket.recv(), 60) == b"\xab" * size

        async def fragments() -> AsyncIterator[bytes]:
            for number in range(100):
                yield bytes([number])

        await socket.send(fragments())
        assert await socket.recv() == bytes(range(100))


async def test_fragments_arrive_as_they_are_sent() -> None:
    """They are not put together on the way, so a message needs no end to be passed on."""
    first_came = asyncio.Event()

    async def handler(socket: ServerConnection) -> None:
        stream = aiter(socket.recv_streaming(decode=True))
        assert await anext(stream) == "first"
        first_came.set()
        assert await anext(stream) == "second"
        await socket.close(4000)

    async def fragments() -> AsyncIterator[str]:
        yield "first"
        await asyncio.wait_for(first_came.wait(), WAIT_S)
        yield "second"

    async with tunnelled(handler) as server, to(server) as socket:
        await socket.send(fragments())
        await socket.wait_closed()
        assert socket.close_code == 4000


async def test_pings_and_pongs_pass_in_both_directions() -> None:
    answered = asyncio.Event()

    async def handler(socket: ServerConnection) -> None:
        await (await socket.ping(b"from the server"))
        answered.set()
        await socket.wait_closed()

    async with tunnelled(handler, ping_interval=None) as server, to(server, ping_interval=None) as socket:
        await asyncio.wait_for(await socket.ping(b"from the client"), WAIT_S)
        await asyncio.wait_for(answered.wait(), WAIT_S)


async def test_close_codes_and_reasons_pass_in_both_directions() -> None:
    closed: list[tuple[int | None, str | None]] = []
    done = asyncio.Event()

    async def handler(socket: ServerConnection) -> None:
        assert socket.request is not None
        if socket.request.path == "/server":
            await socket.close(4321, "because")
        await socket.wait_closed()
        closed.append((socket.close_code, socket.close_reason))
        done.set()

    async with tunnelled(handler) as server:
        async with to(server, "/client") as socket:
            await socket.close(4123, "enough")
        await asyncio.wait_for(done.wait(), WAIT_S)
        async with to(server, "/server") as socket:
            await socket.wait_closed()
            assert (socket.close_code, socket.close_reason) == (4321, "because")
    assert closed[0] == (4123, "enough")


async def test_a_refused_handshake_is_answered_as_the_upstream_answered_it() -> None:
    def refuse(socket: ServerConnection, _: Request) -> Response:
        response = socket.respond(HTTPStatus.PAYMENT_REQUIRED, "pay first")
        response.headers["x-why"] = "money"
        return response

    async with tunnelled(process_request=refuse) as server:
        with pytest.raises(InvalidStatus) as refused:
            async with to(server):
                pass
    answer = refused.value.response
    assert (answer.status_code, answer.body, answer.headers["x-why"]) == (402, b"pay first", "money")
    assert "x-proxq-source" not in answer.headers


async def test_an_unreachable_upstream_refuses_the_handshake_with_torils_502() -> None:
    async with passing(1) as server:
        with pytest.raises(InvalidStatus) as refused:
            async with to(server):
                pass
    assert (refused.value.response.status_code, refused.value.response.headers["x-proxq-source"]) == (502, "proxq")


@pytest.mark.parametrize("headers", [
    b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n",
    b"connection: UPGRADE\r\nupgrade: WebSocket\r\n",
    b"connection: upgrade\r\nconnection: keep-alive\r\nupgrade: WEBSOCKET\r\n",
])  # fmt: skip
async def test_a_handshake_is_recognised_however_its_headers_are_spelled(headers: bytes) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        assert (head.value("connection"), head.value("upgrade")) == ("Upgrade", "websocket")
        writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\nX-Up: 1\r\n\r\nfirst")
        assert await reader.readexactly(6) == b"second"
        writer.write(b"third")

    async with serving(accept) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"GET / HTTP/1.1\r\nhost: x\r\n" + headers + b"\r\n")
        status, answered = await client.head()
        assert (status, answered) == (101, [("X-Up", "1"), ("connection", "Upgrade"), ("upgrade", "websocket")])
        assert await client.exactly(5) == b"first"
        await client.say(b"second")
        assert await client.rest() == b"third"


async def test_what_a_client_sends_before_it_leaves_still_arrives() -> None:
    arrived = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
        assert await reader.read() == b"farewell"
        arrived.set()

    async with serving(accept) as port, passing(port) as server:
        client = await server.client()
        await client.say(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nfare")
        await client.head()
        client.writer.write(b"well")
        client.writer.close()
        await asyncio.wait_for(arrived.wait(), WAIT_S)


async def test_a_reader_that_is_slow_slows_the_sender_down() -> None:
    """What is on its way stays bounded, however much there is to send."""
    sent = 0
    stop = asyncio.Event()

    async def pour(socket: ServerConnection) -> None:
        nonlocal sent
        while not stop.is_set():
            await socket.send(b"x" * 65_536)
            sent += 65_536

    async with (
        tunnelled(pour, ping_interval=None, compression=None) as server,
        to(server, ping_interval=None, compression=None, max_queue=1) as socket,
    ):
        before = -1
        while before != sent:  # until it stands still
            before = sent
            await asyncio.sleep(0.5)
        assert sent < 64 * 2**20
        stop.set()
        received = sum([len(message) async for message in socket])
        assert received >= sent


async def test_an_upstream_that_dies_ends_the_tunnel() -> None:
    async def die(socket: ServerConnection) -> None:
        await socket.recv()
        socket.transport.abort()

    async with tunnelled(die) as server, to(server) as socket:
        await socket.send("now")
        with pytest.raises(ConnectionClosedError):
            await asyncio.wait_for(socket.recv(), WAIT_S)


async def test_a_client_that_dies_ends_its_tunnel() -> None:
    gone = asyncio.Event()

    async def handler(socket: ServerConnection) -> None:
        await socket.wait_closed()
        gone.set()

    async with tunnelled(handler) as server:
        socket: ClientConnection
        async with to(server) as socket:
            socket.transport.abort()
            await asyncio.wait_for(gone.wait(), WAIT_S)
