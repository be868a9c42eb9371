"""WebSocket handshakes that take a while: what comes early, and a server that ends meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tests.support.ports import free_port
from toril.server.lingering_close import LingeringSocketProtocol

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
NO_FRAME = b"\xff\xff\xff\xff"
HELLO = b"\x81\x85\0\0\0\0hello"
PING = b"\x89\x80\0\0\0\0"
CLOSE = b"\x88\x82\0\0\0\0\x03\xe8"


class SlowApp:
    """Answers a handshake when it is told to."""

    def __init__(self, *, accepts: bool) -> None:
        self.go = asyncio.Event()
        self.received: list[Any] = []
        self._accepts = accepts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await self.go.wait()
        if not self._accepts:
            await send({"type": "websocket.http.response.start", "status": 503, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"no"})
            return
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            self.received.append(message["text"])


class Handshake:
    """A handshake that waits for its answer."""

    def __init__(self, server: uvicorn.Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await asyncio.sleep(0.05)

    async def answer(self) -> tuple[bytes, bytes]:
        """The status line, and what comes behind the head until the connection ends; empty if it was cut off."""
        async with asyncio.timeout(5):
            try:
                head, _, rest = (await self._reader.read()).partition(b"\r\n\r\n")
            except ConnectionResetError:
                return b"", b""
        return head.split(b"\r\n")[0], rest


@asynccontextmanager
async def handshake(app: SlowApp) -> AsyncIterator[Handshake]:
    port = free_port()
    config = uvicorn.Config(app, port=port, ws=LingeringSocketProtocol, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    one = Handshake(server, reader, writer)
    await one.send(HANDSHAKE)
    try:
        yield one
    finally:
        app.go.set()
        writer.close()
        server.should_exit = True
        await asyncio.wait_for(serving, 10)


@pytest.fixture
async def faults() -> list[dict[str, Any]]:
    """What callbacks of the event loop raised."""
    raised: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    return raised


@pytest.mark.parametrize(
    "early", [b"", NO_FRAME, PING, CLOSE, HELLO], ids=["nothing", "no frame", "ping", "close", "text"]
)
@pytest.mark.parametrize("ends", [False, True], ids=["server-goes-on", "server-ends"])
async def test_a_refusal_is_the_only_answer_to_a_handshake(
    early: bytes, ends: bool, faults: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    app = SlowApp(accepts=False)
    async with handshake(app) as one:
        await one.send(early)
        if ends:
            one.server.should_exit = True
            await asyncio.sleep(0.3)
        app.go.set()
        assert await one.answer() == (b"HTTP/1.1 503 Service Unavailable", b"no")
    assert faults == []
    assert "Exception in ASGI application" not in caplog.text


@pytest.mark.parametrize(
    ("early", "received", "rest"),
    [
        (HELLO, ["hello"], b"\x88\x02\x03\xf4"),
        (NO_FRAME, [], b"\x88\x10\x03\xeainvalid opcode"),
        (PING, [], b"\x8a\x00\x88\x02\x03\xf4"),
        (CLOSE, [], b"\x88\x02\x03\xe8"),
    ],
    ids=["text", "no frame", "ping", "close"],
)
async def test_messages_sent_early_are_read_once_the_handshake_is_accepted(
    early: bytes, received: list[str], rest: bytes, faults: list[dict[str, Any]]
) -> None:
    app = SlowApp(accepts=True)
    async with handshake(app) as one:
        await one.send(early)
        one.server.should_exit = True
        await asyncio.sleep(0.3)
        app.go.set()
        assert await one.answer() == (b"HTTP/1.1 101 Switching Protocols", rest)
    assert app.received == received
    assert faults == []


async def test_a_client_that_does_not_wait_for_the_answer_is_cut_off(faults: list[dict[str, Any]]) -> None:
    app = SlowApp(accepts=True)
    async with handshake(app) as one:
        await one.send(bytes(100_000))
        assert await one.answer() == (b"", b"")
    assert faults == []
