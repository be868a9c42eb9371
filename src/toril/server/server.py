"""Serves toril's application over HTTP until a signal says stop.

SIGTERM: `/ready` says so at once, and for `shutdown.delay` all else goes on as before, so that balancers can look
elsewhere (`web/operations/departure`). Then new work is refused and nothing more is leased; jobs in flight have the
grace period to end, and their workers can report on them meanwhile; what is left is given back. SIGINT: the same
without the delay. A second signal ends it now.
SIGHUP: the configuration is read again, as far as that goes without a restart.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import structlog
import uvicorn
from msgspec import Struct
from starlette.types import ASGIApp

from toril.asgi import create_app
from toril.config.reloading import ConfigFile
from toril.config.settings import ConnectionPolicy, Settings
from toril.instance import Instance
from toril.instance.refusals import Refusals
from toril.server.bounded_requests import Refusal
from toril.server.connection_sweep import ConnectionSweep
from toril.server.descriptors import Descriptors, available, raise_limit
from toril.server.known_heads import KnownHeads
from toril.server.lingering_close import LingeringSocketProtocol
from toril.server.proxied_http import ProxiedProtocol, Tunnels
from toril.server.request_cycle import Leaving
from toril.web.routing import IndexedRouter

log = structlog.get_logger(__name__)

_CLOSE_S = 3.0
# After that, for requests to notice that their callers are gone.
_NOTICE_S = 1.0
_PING_S = 20.0
_BACKLOG = 2048
_EVERY_IPV4 = "0.0.0.0"  # noqa: S104 - what `::` means where there is no IPv6


def spreads() -> bool:
    """Return True where the kernel spreads connections over all sockets that listen on one port."""
    return sys.platform == "linux"


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. `::` is all addresses of both families, or all IPv4 addresses without IPv6.

    Raises:
        OSError: the address cannot be bound.
    """
    return _bound(_listening_on, host, port)


def bind_spread(host: str, port: int) -> socket.socket:
    """Return a socket that does not listen yet, for a port that others of its kind may listen on, too.

    `host` is as in `bind`.

    Raises:
        OSError: the address cannot be bound.
    """
    return _bound(_spread_on, host, port)


def keep_port(host: str, port: int) -> socket.socket:
    """Return a socket that never listens, and keeps a port for those of `bind_spread` while none of them is there.

    Raises:
        OSError: the address cannot be bound, or another program listens there.
    """
    with bind(host, port) as alone:  # two that spread would share the port without a word
        port = alone.getsockname()[1]
    return bind_spread(host, port)


def _bound(bound_to: Callable[[str, int, bool], socket.socket], host: str, port: int) -> socket.socket:
    both = host == "::"
    try:
        sock = bound_to(host, port, both)
    except (
        ValueError,
        OSError,
    ) as exc:  # ValueError: there is no IPv6 in Python or in the kernel, or it cannot do both
        if not both or (isinstance(exc, OSError) and exc.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)):
            raise
        sock = bound_to(_EVERY_IPV4, port, False)
    sock.setblocking(False)
    return sock


def _listening_on(host: str, port: int, both: bool) -> socket.socket:
    return socket.create_server((host, port), family=_family(host), backlog=_BACKLOG, dualstack_ipv6=both)


def _spread_on(host: str, port: int, both: bool) -> socket.socket:
    if both and not socket.has_dualstack_ipv6():
        raise ValueError("dualstack_ipv6 not supported on this platform")
    sock = socket.socket(_family(host))
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def why_not_bound(exc: OSError) -> str:
    """Return why an address cannot be bound.

    A failed look-up of its name has a negative number, which `os.strerror` does not know.
    """
    if exc.errno is not None and exc.errno > 0:
        return os.strerror(exc.errno)
    return "the host name cannot be resolved"


def url_of(listening: socket.socket) -> str:
    """Return the URL of a socket as seen from this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what it listens on, not a choice
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: an instance has more to end than connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        self.listens.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the connections: give them time to close by themselves, and cut those that do not.

        uvicorn would only cancel their requests. A stream whose caller has stopped reading cannot end well then; one
        whose caller is gone can.
        """
        async with asyncio.TaskGroup() as tasks:
            ending = tasks.create_task(super().shutdown(sockets))
            await asyncio.wait([ending], timeout=_CLOSE_S)
            if left := list(self.server_state.connections):
                log.warning("shutdown.cut", connections=len(left))
            for connection in left:
                connection.transport.abort()
            await asyncio.wait([ending], timeout=_NOTICE_S)
            for request in list(self.server_state.tasks):
                request.cancel()
            self.force_exit = True  # do not wait for requests that do not end even then


class Front(Struct, frozen=True, kw_only=True):
    """What the server has to know of an application beside ASGI.

    `tunnels` says which WebSockets are only passed on, `proxies` whether there are upstreams, `refusal` what is
    answered to requests that never reach the application, and `leaving` whether the instance has begun to go.
    """

    tunnels: Tunnels = lambda _: False
    proxies: bool = False
    leaving: Leaving = lambda: False
    refusal: Refusal = Refusals(IndexedRouter())
    max_message_bytes: int = 2**20
    connections: ConnectionPolicy = ConnectionPolicy()
    descriptors: Descriptors | None = None


@asynccontextmanager
async def listening(app: ASGIApp, sock: socket.socket, front: Front = Front()) -> AsyncIterator[None]:  # noqa: B008 - frozen
    """Answer HTTP and WebSockets on a socket during a block."""
    sweep = ConnectionSweep(front.connections, front.descriptors)
    protocol = partial(
        ProxiedProtocol,
        tunnels=front.tunnels,
        leaving=front.leaving,
        proxies=front.proxies,
        sweep=sweep,
        heads=KnownHeads(),
        refusal=front.refusal,
    )
    server = _Server(
        uvicorn.Config(
            app,
            loop="none",
            http=protocol,  # type: ignore[arg-type] # made by calling it
            ws=LingeringSocketProtocol,
            ws_max_size=front.max_message_bytes,
            # A worker's jobs are its own for as long as it answers these.
            ws_ping_interval=_PING_S,
            ws_ping_timeout=_PING_S,
            ws_per_message_deflate=False,
            lifespan="off",
            interface="asgi3",
            access_log=False,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
        )
    )
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(server.serve([sock]), name="http")
        sweeping = tasks.create_task(sweep.run(server.server_state.connections), name="sweep")
        try:
            # Not before: what is told now is taken as true by those who connect.
            begun = tasks.create_task(server.listens.wait(), name="listens")
            await asyncio.wait([begun, serving], return_when=asyncio.FIRST_COMPLETED)
            begun.cancel()
            yield
        finally:
            sweeping.cancel()
            # Waited for here: a block that is cancelled would cancel the server too, and leave its requests behind.
            server.should_exit = True
            await asyncio.wait([serving])


async def serve(
    settings: Settings,
    sock: socket.socket,
    *,
    started: Callable[[Instance], None] | None = None,
    config: ConfigFile | None = None,
    lifeline: int | None = None,
    replaced: asyncio.Event | None = None,
) -> None:
    """Run an instance until it is told to stop, then drain it.

    Args:
        started: called when it listens.
        config: what the settings come from, to be followed: it is read anew when it changes, or at SIGHUP.
        lifeline: a descriptor whose end means the same as SIGTERM, because its holder is gone. A process that has one
            is a child of several, and its parent passes SIGHUP on to all of them.
        replaced: set when another instance is to take this one's place: it stops without a delay.
    """
    raise_limit()
    stop = _Stop()
    if lifeline is not None:
        asyncio.get_running_loop().add_reader(lifeline, _orphaned, lifeline, stop)
    with _signals(stop, config):
        spread = None if lifeline is None else partial(_tell_parent, os.getppid())
        app = create_app(settings, config=config, spread=spread)
        async with app.router.lifespan_context(app):
            instance: Instance = app.state.instance
            descriptors = available()
            front = Front(
                tunnels=instance.tunnels,
                proxies=instance.proxies,
                leaving=lambda: instance.departure.begun,
                refusal=instance.refusal,
                max_message_bytes=settings.gateway.max_body_bytes,
                connections=settings.connections,
                descriptors=descriptors,
            )
            async with listening(app.dispatch, sock, front):
                log.info(
                    "connections",
                    most=descriptors.connections(descriptors.used),
                    descriptors=descriptors.limit,
                    reserved=descriptors.reserved,
                )
                log.info(
                    "listening",
                    url=url_of(sock),
                    redis="none" if settings.without_redis else str(settings.redis),
                    pid=os.getpid(),
                )
                if started is not None:
                    started(instance)
                if replaced is not None:
                    instance.tasks.create_task(_stop_when(replaced, stop), name="replaced")
                await stop.asked.wait()
                departure = instance.departure
                departure.begin(at_once=stop.at_once)
                log.info("shutdown.began", delay_s=departure.left_s(), grace_s=settings.engine.grace_s)
                await departure.over()
                log.info("shutdown.refusing")
                # While it still listens: workers report on the jobs that they hold.
                await instance.drain()
    log.info("shutdown.done")


class _Stop:
    """Tells whether the process should end. `at_once`: from a terminal, or because its parent has ended, so that no
    balancer waits for it.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = False


def _orphaned(lifeline: int, stop: _Stop) -> None:
    asyncio.get_running_loop().remove_reader(lifeline)
    log.warning("shutdown.orphaned", hint="the parent process is gone")
    stop.at_once = True
    stop.asked.set()


async def _stop_when(replaced: asyncio.Event, stop: _Stop) -> None:
    await replaced.wait()
    stop.at_once = True
    stop.asked.set()


def _tell_parent(parent: int) -> None:
    if os.getppid() == parent:  # which may have ended, and another process have its number
        os.kill(parent, signal.SIGHUP)


@contextmanager
def _signals(stop: _Stop, config: ConfigFile | None) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def handle(number: int) -> None:
        if stop.asked.is_set():
            os._exit(128 + number)
        stop.at_once = number == signal.SIGINT
        stop.asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle, number)
    if config is not None:
        loop.add_signal_handler(signal.SIGHUP, config.ask)
        # A parent holds it back until here, where it no longer ends the process.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
