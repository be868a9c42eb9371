"""A server of ours that passes everything through to an upstream, both in the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.upstream import Head, read_body, read_chunk, read_head
from toril.config.settings import ConnectionPolicy
from toril.http_client.client import HttpClient
from toril.proxy.passthrough import Passthrough
from toril.proxy.rules.upstream import Upstream
from toril.server.server import Front, bind, listening
from toril.web.raw_target import raw_target

WAIT_S = 20.0
"""For what must happen; nothing that may take its time is asked for."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Client:
    """A connection to the server, to write a request's bytes on and read the answer's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        """The next head: status and headers."""
        raw = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WAIT_S)
        line, *lines = raw[:-4].decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(line.split(" ")[1]), [(name, value.strip()) for name, _, value in pairs]

    async def exactly(self, count: int) -> bytes:
        """So many bytes."""
        return await asyncio.wait_for(self.reader.readexactly(count), WAIT_S)

    async def rest(self) -> bytes:
        """All until the connection is closed; raises `ConnectionResetError` if it is broken off."""
        return await asyncio.wait_for(self.reader.read(), WAIT_S)

    async def chunks(self) -> bytes:
        """A chunked body, to its end."""
        return b"".join([part async for part in _chunks(self.reader)])

    async def answer(self) -> "Answer":
        """A whole answer of known length, without the heads below 200 before it."""
        status, headers = await self.head()
        while status < 200:
            status, headers = await self.head()
        sizes = [int(value) for name, value in headers if name.lower() == "content-length"]
        body = await self.exactly(sizes[0]) if sizes and status not in {204, 304} else b""
        return Answer(status, headers, body)


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while part := await asyncio.wait_for(read_chunk(reader), WAIT_S):
        yield part


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """All values of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass
class Passing:
    """The server."""

    port: int
    upstream_port: int
    passthrough: Passthrough
    stack: AsyncExitStack

    async def client(self) -> Client:
        """A new connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        self.stack.callback(writer.close)
        return Client(reader, writer)

    async def ask(self, request: bytes) -> Answer:
        """Make one request on a new connection and read the whole answer."""
        client = await self.client()
        await client.say(request)
        return await client.answer()


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    """An upstream; its port. What `serve` raises fails the test, unless a connection was closed."""
    errors: list[Exception] = []
    tasks: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as exc:
            errors.append(exc)
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for error in errors:
        raise error


@asynccontextmanager
async def passing(
    port: int, *, timeout_s: float = 60.0, base: str = "", connections: ConnectionPolicy | None = None
) -> AsyncIterator[Passing]:
    """A server that passes everything to the upstream at this port."""
    client = HttpClient(5.0, 1_000_000)
    passthrough = Passthrough(lambda _: client)
    upstream = Upstream(prefix="/", url=f"http://127.0.0.1:{port}{base}", timeout_s=timeout_s)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await passthrough(scope, receive, send, upstream, raw_target(scope))

    sock = bind("127.0.0.1", 0)
    front = Front(tunnels=lambda _: True, connections=connections or ConnectionPolicy())
    async with AsyncExitStack() as stack, listening(app, sock, front):
        yield Passing(sock.getsockname()[1], port, passthrough, stack)
        await stack.aclose()
        await passthrough.drain(0)


def answering(*answers: bytes, seen: list[tuple[Head, bytes]] | None = None) -> Serve:
    """An upstream's behaviour: each request, whole, gets the next of these answers, the last one again and again."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            body = await read_body(reader, head)
            if seen is not None:
                seen.append((head, body))
            writer.write(left.pop(0) if len(left) > 1 else left[0])
            await writer.drain()

    return serve
