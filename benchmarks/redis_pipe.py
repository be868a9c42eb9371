"""One Redis connection with nothing on it: asyncio, hiredis to pack and parse. For the script ceilings.

Not a client: no queueing, no reconnecting. `call` is one command and its reply, for the handshake; afterwards
the ceiling writes what it likes and is handed the replies of each read at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import resources
from typing import Any, cast

import hiredis
from redis.connection import parse_url

Argument = str | bytes | int
# hiredis' stub says a tuple of one; it takes any.
pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)


class PipeError(Exception):
    """Redis refused a call, or went away."""


class Pipe(asyncio.Protocol):
    """The connection. `on_replies` is called with all replies that one read brought."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: asyncio.Future[object] | None = None
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self.on_replies: Callable[[list[Any]], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not registered as such

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        replies = []
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, hiredis.ReplyError):
                self._fail(reply)
                return
            replies.append(reply)
        if self._waiting is not None and replies:
            self._waiting.set_result(replies[0])
            self._waiting = None
        elif self.on_replies is not None and replies:
            self.on_replies(replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("Redis closed the connection"))

    def write(self, commands: bytes) -> None:
        assert self._transport is not None
        self._transport.write(commands)

    async def call(self, *arguments: Argument) -> Any:
        """One command, one reply. Raises PipeError."""
        self._waiting = asyncio.get_running_loop().create_future()
        self.write(pack(arguments))
        return await self.wait_for(self._waiting)

    async def wait_for(self, future: asyncio.Future[Any]) -> Any:
        """The future's result, or PipeError as soon as the connection fails."""
        await asyncio.wait([future, self._lost], return_when=asyncio.FIRST_COMPLETED)
        if self._lost.done():
            self._lost.result()
        return future.result()

    def close(self) -> None:
        self._lost.cancel()
        if self._transport is not None:
            self._transport.close()

    def _fail(self, exc: Exception) -> None:
        if not self._lost.done():
            self._lost.set_exception(PipeError(str(exc)))


async def connect(url: str) -> Pipe:
    """Opens a `redis://` URL: logs in and selects the database if the URL says so."""
    where: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    _, pipe = await asyncio.get_running_loop().create_connection(
        Pipe, where.get("host", "127.0.0.1"), where.get("port", 6379)
    )
    if "password" in where:
        await pipe.call("AUTH", where.get("username", "default"), where["password"])
    await pipe.call("SELECT", where.get("db", 0))
    return pipe


async def load(pipe: Pipe, script: str) -> bytes:
    """Loads one of BullMQ's scripts by file name; returns its SHA."""
    sha: bytes = await pipe.call("SCRIPT", "LOAD", (resources.files("bullmq") / "commands" / script).read_text())
    return sha
