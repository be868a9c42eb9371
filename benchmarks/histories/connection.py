"""One kept connection of a caller: a request, then its answer, then the next request."""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast

from benchmarks.histories.case import Answer


class Connection(asyncio.Protocol):
    """A connection to an instance that has at most one request under way."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: asyncio.Future[Answer] | None = None
        self.closed = False

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect to a port of this machine. Raises OSError."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        return connection

    async def exchange(self, request: bytes) -> Answer:
        """Send a request and return its answer. Raises OSError and ValueError."""
        if self._transport is None or self.closed:
            raise ConnectionResetError
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def abort(self) -> None:
        """Break it off."""
        self.closed = True
        if self._transport is not None:
            with contextlib.suppress(OSError):
                self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._fail(ConnectionResetError())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            answer = self._read()
        except ValueError as fault:
            self.abort()
            self._fail(fault)
            return
        if answer is not None and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def _fail(self, exc: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(exc)

    def _read(self) -> Answer | None:
        """Take a whole answer from the buffer, if it has come. Raises ValueError for what is no HTTP."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._buffer[:end]).lower()
        status, start = int(head[9:12]), end + 4
        if b"\r\ntransfer-encoding: chunked" in head:
            found = self._chunks(start)
            if found is None:
                return None
            body, used = found
        else:
            used = start + (0 if status == 204 else _length(head))
            if len(self._buffer) < used:
                return None
            body = bytes(self._buffer[start:used])
        del self._buffer[:used]
        if b"\r\nconnection: close" in head:
            self.abort()
        return Answer(status, body)

    def _chunks(self, at: int) -> tuple[bytes, int] | None:
        """Return the body that begins here in chunks, and where it ends; None while it has not all come."""
        body = b""
        while (line := self._buffer.find(b"\r\n", at)) >= 0:
            size = int(bytes(self._buffer[at:line]).split(b";")[0], 16)
            at = line + 2 + size + 2
            if len(self._buffer) < at:
                return None
            if not size:
                return body, at
            body += self._buffer[line + 2 : line + 2 + size]
        return None


def _length(head: bytes) -> int:
    _, found, rest = head.partition(b"\r\ncontent-length: ")
    return int(rest.split(b"\r\n", 1)[0]) if found else 0
