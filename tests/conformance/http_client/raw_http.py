"""An HTTP server that writes the bytes a test gives it, and keeps the bytes it gets."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.conformance.servers import listening

Say = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request, and the connection to answer it on."""

    def __init__(
        self, connection: int, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connection = connection
        self.request = request
        self.reader = reader
        self.writer = writer

    @property
    def head(self) -> bytes:
        """The request line and headers, with the empty line."""
        return self.request[: self.request.index(b"\r\n\r\n") + 4]

    @property
    def body(self) -> bytes:
        """The request's body."""
        return self.request[len(self.head) :]

    async def say(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        """Write these pieces, each in a separate write."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(pause_s)

    async def hang_up(self) -> None:
        """End the connection in good order."""
        self.writer.close()
        await self.writer.wait_closed()

    def reset(self) -> None:
        """End the connection with RST."""
        sock: Any = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until the client hangs up."""
        while await self.reader.read(65_536):
            pass


class RawServer:
    """Answers the nth request with the nth of `answers`; the last one serves for all that follow."""

    def __init__(self, answers: Sequence[bytes | Say]) -> None:
        self._answers = list(answers)
        self.exchanges: list[Exchange] = []
        self.connections = 0
        self.open = 0
        self.port = 0

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}/"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Part of `listening`."""
        self.connections += 1
        self.open += 1
        connection = self.connections
        try:
            while not writer.is_closing():
                request = await read_request(reader)
                exchange = Exchange(connection, request, reader, writer)
                self.exchanges.append(exchange)
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if isinstance(answer, bytes):
                    await exchange.say(answer)
                else:
                    await answer(exchange)
        finally:
            self.open -= 1


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """One whole request, framed by its content-length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    return head + await reader.readexactly(length)


@asynccontextmanager
async def serving(*answers: bytes | Say, **where: Any) -> AsyncIterator[RawServer]:
    """A server for the length of a block."""
    server = RawServer(answers)
    async with listening(server.serve, **where) as port:
        server.port = port
        yield server


def ok(body: bytes = b"ok", *headers: bytes) -> bytes:
    """A plain 200."""
    lines = b"".join(b"%b\r\n" % header for header in headers)
    return b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (lines, len(body), body)
