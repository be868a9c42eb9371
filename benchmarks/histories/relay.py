"""A relay between a toril and a store, whose connections can be cut, slowed down or swallowed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Self, cast


class Relay:
    """Passes connections from its port on to another port of this machine.

    Attributes:
        refuses: new connections are closed at once.
        swallows: what comes is kept, and nothing is passed on; connections stay open.
        delay_s: how long everything takes on its way, in both directions.
    """

    def __init__(self, port: int, to: int) -> None:
        self.port = port
        self._to = to
        self.refuses = False
        self.swallows = False
        self.delay_s = 0.0
        self._server: asyncio.Server | None = None
        self._ends: set[_End] = set()

    async def start(self) -> Self:
        """Begin to listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _End(self, None), "127.0.0.1", self.port, backlog=256)
        return self

    async def close(self) -> None:
        """Stop listening, and cut everything."""
        if self._server is not None:
            self._server.close()
        self.cut()

    def cut(self) -> None:
        """Break all connections off."""
        for end in list(self._ends):
            end.abort()

    def let_go(self) -> None:
        """Pass on what was swallowed, and go on."""
        self.swallows = False
        for end in list(self._ends):
            end.go_on()

    async def connect(self, end: _End) -> None:
        """Connect an end that has come to the store."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(5):
                await loop.create_connection(lambda: _End(self, end), "127.0.0.1", self._to)
        except (OSError, TimeoutError):
            end.abort()

    def joins(self, end: _End) -> None:
        """Note an open connection."""
        self._ends.add(end)

    def leaves(self, end: _End) -> None:
        """Forget a connection that is closed."""
        self._ends.discard(end)


class _End(asyncio.Protocol):
    """One end of a connection; what it gets goes to the other end."""

    def __init__(self, relay: Relay, other: _End | None) -> None:
        self._relay = relay
        self._other = other
        self._kept: deque[bytes] = deque()
        self._late = 0
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        if self._relay.refuses:
            # uvloop forgets a connection that is broken off while it is being made.
            asyncio.get_running_loop().call_soon(self.abort)
            return
        self._relay.joins(self)
        if self._other is None:
            self._connecting = asyncio.get_running_loop().create_task(self._relay.connect(self))
        else:
            self._other.met(self)

    def met(self, other: _End) -> None:
        """Take the other end, which is connected now."""
        self._other = other
        if self._transport is None or self._transport.is_closing():
            other.abort()
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self._relay.delay_s and self._other is not None and not self._relay.swallows:
            self._late += 1
            self._kept.append(data)
            asyncio.get_running_loop().call_later(self._relay.delay_s, self._pass_late)
        elif self._other is None or self._relay.swallows or self._kept:
            self._kept.append(data)
        else:
            self._other.write(data)

    def _pass_late(self) -> None:
        self._late -= 1
        if self._kept and not self._relay.swallows and self._other is not None:
            self._other.write(self._kept.popleft())
        if not self._late:
            self.flush()

    def flush(self) -> None:
        """Pass on what was kept."""
        if self._other is None or self._relay.swallows or self._late:
            return
        while self._kept:
            self._other.write(self._kept.popleft())

    def go_on(self) -> None:
        """Pass on what was kept in both directions, and the end of the connection where one side has ended it."""
        self.flush()
        if self._other is not None and self._other.lost:
            self._other.flush()
            self.flush_and_close()

    def write(self, data: bytes) -> None:
        """Send to this end."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        """Break it off."""
        if self._transport is not None:
            with contextlib.suppress(OSError):
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._relay.leaves(self)
        # While nothing is passed on, neither is the end of a connection.
        if self._other is not None and not self._relay.swallows:
            self._other.flush_and_close()

    def flush_and_close(self) -> None:
        """Close it behind what has been sent to it."""
        if self._transport is not None:
            self._transport.close()
