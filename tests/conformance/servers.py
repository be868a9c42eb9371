"""Raw servers on loopback: a TCP proxy that can cut, and a TLS front for a server without TLS."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

CERTIFICATES = Path(__file__).parent / "certificates"
CERTIFICATE = CERTIFICATES / "localhost.pem"
KEY = CERTIFICATES / "localhost-key.pem"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def server_tls() -> ssl.SSLContext:
    """The TLS side of a server that shows the test certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    return context


@asynccontextmanager
async def listening(serve: Serve, *, tls: ssl.SSLContext | None = None, **where: Any) -> AsyncIterator[int]:
    """Serve each connection with a function, for the length of a block; its port.

    Connections end with the block, in whatever state they are.
    """
    tasks: set[asyncio.Task[Any]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the block has ended
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(accept, ssl=tls, **({"host": "127.0.0.1", "port": 0} | where))
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


class Proxy:
    """A TCP proxy in front of a server.

    `received` is everything that clients sent, `deaf` keeps what they send from the server from then on, `mute`
    keeps answers from them, and `cut()` breaks all connections.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self.received = bytearray()
        self.connections = 0
        self.deaf = False
        self.mute = False
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Part of `listening`."""
        self.connections += 1
        up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, up_writer}
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._pump(reader, up_writer, "up"))
                tasks.create_task(self._pump(up_reader, writer, "down"))
        finally:
            self._writers -= {writer, up_writer}
            up_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if way == "up":
                    self.received += data
                if not (self.deaf if way == "up" else self.mute):
                    writer.write(data)
        writer.transport.abort()

    def send_to(self, port: int) -> None:
        """New connections go to another port from now on."""
        self._port = port

    def cut(self) -> None:
        """Break all connections at once."""
        for writer in list(self._writers):
            writer.transport.abort()


@asynccontextmanager
async def proxied(host: str, port: int, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """A proxy in front of a server, perhaps with TLS on its own side."""
    proxy = Proxy(host, port)
    async with listening(proxy.serve, tls=tls) as own_port:
        proxy.port = own_port
        yield proxy


async def until(fact: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """The first truthy value of a probe; fails when there is none in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        seen = fact()
        if asyncio.iscoroutine(seen):
            seen = await seen
        if seen:
            return seen
        assert loop.time() < deadline, f"waited {timeout_s:g} s in vain"
        await asyncio.sleep(0.002)


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port of 127.0.0.1 that neither accepts nor refuses: its backlog is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])
