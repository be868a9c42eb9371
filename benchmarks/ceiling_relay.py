"""The ceiling of requests that pass through: bytes are relayed both ways on uvloop, and nothing is read of them.

    python -m benchmarks.ceiling_relay --port 9000 --to 127.0.0.1:9001

Each client gets a connection to the server.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import uvloop

_BUFFERED = 2**20


class Side(asyncio.Protocol):
    """One of the two connections of a relay. What it receives goes to the other one, as fast as that takes it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(_BUFFERED)

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self._early.append(data)
        else:
            self.other.transport.write(data)

    def joined(self, other: Side) -> None:
        """Pass on to the other side what has come, and what will come."""
        self.other, other.other = other, self
        assert other.transport is not None
        if self._early:
            other.transport.write(b"".join(self._early))

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Accepted(Side):
    """The connection of a client; the one to the server is opened when it comes."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._host, self._port = host, port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        _, side = await asyncio.get_running_loop().create_connection(Side, self._host, self._port)
        self.joined(side)


async def relay(port: int, host: str, to: int) -> None:
    """Relay until it is stopped."""
    server = await asyncio.get_running_loop().create_server(lambda: Accepted(host, to), "127.0.0.1", port)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    arguments = parser.parse_args()
    host, _, to = arguments.to.rpartition(":")
    uvloop.run(relay(arguments.port, host, int(to)))


if __name__ == "__main__":
    main()
