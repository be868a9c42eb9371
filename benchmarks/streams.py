"""The upstream of what passes through: answers `GET …/N` with N bytes, swallows what it is posted; and of slow calls:
what is posted to `/slow/N` is answered after N seconds.

Runs in a separate process, written so that one core moves a gigabyte a second or more.

    python -m benchmarks.streams
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from benchmarks.processes import Child, ProcessError, module

_PIECE = bytes(2**18)


class StreamServer:
    """The running upstream, on a free loopback port."""

    def __init__(self) -> None:
        self._child = Child("streams", module("streams"), speaks=True)
        words = self._child.first_line().split()
        if len(words) != 2:
            raise ProcessError(f"the upstream did not start: {self._child.said()}")
        self.port = int(words[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._child.stop()


class _Connection(asyncio.BufferedProtocol):
    """One request after the other; heads come in one piece, as clients on loopback send them."""

    def __init__(self) -> None:
        self._buffer = bytearray(2**18)
        self._left = 0
        self._after_s = 0.0
        self._to_send = 0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = memoryview(self._buffer)[:nbytes]
        if self._left:
            self._left -= nbytes
            self._received()
            return
        head, _, body = bytes(data).partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        if line.startswith(b"GET"):
            size = int(line.split(b" ")[1].rpartition(b"/")[2])
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            self._to_send = size
            self._send()
            return
        length = next(int(one[15:]) for one in lines if one.lower().startswith(b"content-length:"))
        self._left = length - len(body)
        slow, _, seconds = line.split(b" ")[1].rpartition(b"/")
        self._after_s = float(seconds) if slow == b"/slow" else 0.0
        self._received()

    def _received(self) -> None:
        if self._left > 0:
            return
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
        if self._after_s:
            asyncio.get_running_loop().call_later(self._after_s, self._transport.write, answer)
        else:
            self._transport.write(answer)

    def _send(self) -> None:
        while self._to_send and not self._paused:
            piece = _PIECE[: self._to_send]
            self._to_send -= len(piece)
            self._transport.write(piece)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._send()


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
    print("listening", server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        uvloop.run(_serve())
    except KeyboardInterrupt:
        sys.exit(0)
