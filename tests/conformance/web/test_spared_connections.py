"""Which connections are closed for a newer one, as real ones show what they wait for."""

import asyncio
import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.conformance.web.bounded import bounded
from toril.server.connection_sweep import ConnectionSweep, SweptConnection
from toril.server.descriptors import Descriptors

GET = b"GET /here HTTP/1.1\r\nhost: here\r\n\r\n"
FEW = Descriptors(limit=0, used=0, reserved=0)
"""So few that there may be eight connections, the least that there may be."""
MOST = 8
WAIT_S = 10


@contextmanager
def connected(port: int, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
        for connection in opened:
            connection.setblocking(False)
        yield opened


async def received(connection: socket.socket) -> bytes:
    """What comes next; nothing from a connection that was closed, and from one that was reset."""
    with suppress(ConnectionResetError):
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 65_536), WAIT_S)
    return b""


async def test_an_idle_connection_whose_next_request_has_come_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks idle until its request is read, and a client takes the reset for a fault of the server's."""
    close_some = ConnectionSweep.make_room
    async with bounded(descriptors=FEW) as server:
        with connected(server.port, MOST) as idle:
            for connection in idle:
                connection.send(GET)
                assert (await received(connection)).startswith(b"HTTP/1.1 200")
            asking = idle[:-1]

            def make_room(self: ConnectionSweep, connections: Collection[object], newest: SweptConnection) -> bool:
                for connection in asking:
                    connection.send(GET)
                return close_some(self, connections, newest)

            monkeypatch.setattr(ConnectionSweep, "make_room", make_room)
            with connected(server.port, 1) as (newest,):
                answers = [await received(connection) for connection in asking]
                assert {answer[:12] for answer in answers} == {b"HTTP/1.1 200"}
                assert await received(idle[-1]) == b""
                newest.send(GET)
                assert (await received(newest)).startswith(b"HTTP/1.1 200")


async def test_if_every_idle_connection_has_a_new_request_a_new_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    close_some = ConnectionSweep.make_room
    async with bounded(descriptors=FEW) as server:
        with connected(server.port, MOST) as idle:
            for connection in idle:
                connection.send(GET)
                assert (await received(connection)).startswith(b"HTTP/1.1 200")

            def make_room(self: ConnectionSweep, connections: Collection[object], newest: SweptConnection) -> bool:
                for connection in idle:
                    connection.send(GET)
                return close_some(self, connections, newest)

            monkeypatch.setattr(ConnectionSweep, "make_room", make_room)
            with connected(server.port, 1) as (newest,):
                assert (await received(newest)).startswith(b"HTTP/1.1 503")
            for connection in idle:
                assert (await received(connection)).startswith(b"HTTP/1.1 200")
