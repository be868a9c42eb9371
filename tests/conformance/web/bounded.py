"""A server of ours with an application that says what it got, in the test's own event loop."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.conformance.web.passing import WAIT_S, Answer, Client
from toril.config.settings import ConnectionPolicy
from toril.server.descriptors import Descriptors
from toril.server.server import Front, bind, listening


class Bounded:
    """The server. `seen` has the headers of each request, as the application got them."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[list[tuple[str, str]]] = []
        self.broken_off = 0
        self.go_on = asyncio.Event()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Read the body, then answer with headers and body.

        `/slow` waits for `go_on` before it answers, `/deaf` before it reads; `/stream` begins an answer and waits then,
        and `/early` answers without reading.
        """
        path = scope["path"]
        if path == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
            await self.go_on.wait()
            await send({"type": "http.response.body", "body": b"whole"})
            return
        if path == "/early":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
            await send({"type": "http.response.body", "body": b"early"})
            return
        if path == "/deaf":
            await self.go_on.wait()
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.broken_off += 1
                return
            body += message["body"]
            if not message["more_body"]:
                break
        if path == "/slow":
            await self.go_on.wait()
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        self.seen.append(headers)
        answer = json.dumps({"path": path, "headers": headers, "body": body.decode("latin-1")}).encode()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(answer))]}
        )
        await send({"type": "http.response.body", "body": answer})

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def ask(self, request: bytes, *, step: int = 0) -> Answer:
        """Send a request on a new connection, `step` bytes at a time, and read one answer."""
        async with self.client() as client:
            await say(client, request, step)
            return await client.answer()


async def say(client: Client, data: bytes, step: int = 0) -> None:
    """Send bytes, `step` at a time, or at once; a server that has hung up meanwhile has answered."""
    step = step or len(data)
    with suppress(ConnectionError):
        for at in range(0, len(data), step):
            await client.say(data[at : at + step])
            await asyncio.sleep(0)


async def is_over(client: Client) -> None:
    """Wait until the server ends the connection without another byte."""
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(client.reader.read(), WAIT_S) == b""


@asynccontextmanager
async def bounded(
    policy: ConnectionPolicy | None = None, descriptors: Descriptors | None = None
) -> AsyncIterator[Bounded]:
    """The server, for the length of a block."""
    server = Bounded()
    sock = bind("127.0.0.1", 0)
    server.port = sock.getsockname()[1]
    async with listening(server.app, sock, Front(connections=policy or ConnectionPolicy(), descriptors=descriptors)):
        yield server
        server.go_on.set()
