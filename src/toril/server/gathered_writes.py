"""uvicorn's HTTP protocol, with the writes of one event-loop turn gathered into one.

uvicorn writes a response's head and its body separately, and uvloop makes a system call of each write. Gathered, a raw
ASGI app answers 1.4 times as many small requests (`benchmarks/`: `ceiling` against `gathered`). docs/decisions/0003.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class GatheringProtocol(HttpToolsProtocol):
    """One HTTP connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Part of asyncio.Protocol."""
        super().connection_made(cast(asyncio.Transport, GatheringTransport(transport, self.loop)))


class GatheringTransport:
    """A transport whose writes leave at the end of the event-loop turn, or when it is closed."""

    __slots__ = ("_loop", "_parts", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        # Asked twice for each request, so it is not looked up by `__getattr__`.
        self.is_closing = transport.is_closing
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Part of asyncio.Transport."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def write_whole(self, data: bytes) -> None:
        """Write a whole answer, to which nothing has to be gathered."""
        if self._parts:
            self._parts.append(data)
        elif not self.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Part of asyncio.Transport: what was written before is still sent."""
        self._flush()
        self._transport.close()

    def write_eof(self) -> None:
        """Part of asyncio.Transport: what was written before is sent first."""
        self._flush()
        self._transport.write_eof()

    def _flush(self) -> None:
        parts = self._parts
        if parts:
            self._parts = []
            if self.is_closing():
                return  # the caller has hung up meanwhile
            self._transport.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
