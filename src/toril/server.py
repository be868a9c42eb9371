"""Serves one instance over HTTP until a signal says stop. Called by `toril.cli`.

SIGTERM: `/ready` says so at once, and for `shutdown.delay` all else goes on as before, so that balancers can look
elsewhere (`toril.gateway.departure`). Then new work is refused and nothing more is leased; jobs in flight have the
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
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import structlog
import uvicorn
from msgspec import Struct
from starlette.types import ASGIApp

from toril.bootstrap import Instance, running
from toril.bounded_requests import Refusal
from toril.config.reloading import ConfigFile
from toril.connection_sweep import ConnectionSweep
from toril.core.policy import ConnectionPolicy, Settings
from toril.descriptors import Descriptors, available, raise_limit
from toril.gateway.refusals import Refusals
from toril.gateway.routing import RouteTable
from toril.lingering_close import LingeringSocketProtocol
from toril.proxied_http import Leaving, ProxiedProtocol, Tunnels

log = structlog.get_logger(__name__)

_CLOSE_S = 3.0
# Behind that, for requests to notice that nobody waits for them any more.
_NOTICE_S = 1.0
_PING_S = 20.0
_BACKLOG = 2048
_EVERY_IPV4 = "0.0.0.0"  # noqa: S104 - what `::` means where there is no IPv6


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. `::` is every address of both families; where the machine has no IPv6, every IPv4 address.

    Raises:
        OSError: the address cannot be bound.
    """
    listening = _bind_every(port) if host == "::" else _bind(host, port)
    listening.setblocking(False)
    return listening


def _bind_every(port: int) -> socket.socket:
    try:
        return socket.create_server(("::", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True)
    except ValueError:  # no IPv6 in Python or in the kernel: it cannot do both
        return _bind(_EVERY_IPV4, port)
    except OSError as exc:
        if exc.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return _bind(_EVERY_IPV4, port)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


def why_not_bound(exc: OSError) -> str:
    """Say why an address cannot be bound.

    A failed look-up of its name has a negative number, which `os.strerror` does not know.
    """
    if exc.errno is not None and exc.errno > 0:
        return os.strerror(exc.errno)
    return "the host name cannot be resolved"


def url_of(listening: socket.socket) -> str:
    """Where a socket can be reached from this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what it listens on, not a choice
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: an instance has more to end than connections."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called when it ends: connections may close by themselves, and are cut when they have not.

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
            self.force_exit = True  # and if one of them does not end even so, wait no more


class Front(Struct, frozen=True, kw_only=True):
    """What the server has to know of an application beside ASGI.

    `tunnels` says which WebSockets are only passed on, `proxies` whether there are upstreams, `refusal` what is
    answered to requests that never reach the application, and `leaving` whether the instance has begun to go.
    """

    tunnels: Tunnels = lambda _: False
    proxies: bool = False
    leaving: Leaving = lambda: False
    refusal: Refusal = Refusals(RouteTable(()))
    max_message_bytes: int = 2**20
    connections: ConnectionPolicy = ConnectionPolicy()
    descriptors: Descriptors | None = None


@asynccontextmanager
async def listening(app: ASGIApp, sock: socket.socket, front: Front = Front()) -> AsyncIterator[None]:  # noqa: B008 - frozen
    """Answer HTTP and WebSockets on a socket for the length of a block."""
    sweep = ConnectionSweep(front.connections, front.descriptors)
    protocol = partial(
        ProxiedProtocol,
        tunnels=front.tunnels,
        leaving=front.leaving,
        proxies=front.proxies,
        sweep=sweep,
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
) -> None:
    """Run an instance until it is told to stop, then drain it.

    Args:
        started: called when it listens.
        config: what the settings come from, to be followed: it is read anew when it changes, or at SIGHUP.
        lifeline: a descriptor whose end means the same as SIGTERM, because whoever held it is gone. Who has one is a
            child of several, and its parent passes SIGHUP on to all of them.
    """
    raise_limit()
    stop = _Stop()
    if lifeline is not None:
        asyncio.get_running_loop().add_reader(lifeline, _orphaned, lifeline, stop)
    with _signals(stop, config):
        spread = None if lifeline is None else partial(_tell_parent, os.getppid())
        async with running(settings, config, spread) as instance:
            await instance.check()
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
            async with listening(instance.app, sock, front):
                log.info(
                    "connections",
                    most=descriptors.connections(descriptors.used),
                    descriptors=descriptors.limit,
                    reserved=descriptors.reserved,
                )
                log.info("listening", url=url_of(sock), redis=str(settings.redis), pid=os.getpid())
                if started is not None:
                    started(instance)
                await stop.asked.wait()
                departure = instance.departure
                departure.begin(at_once=stop.at_once)
                log.info("shutdown.began", delay_s=departure.left_s(), grace_s=settings.engine.grace_s)
                await departure.over()
                log.info("shutdown.refusing")
                await instance.drain()
    log.info("shutdown.done")


class _Stop:
    """Whether the process was told to end. `at_once`: by somebody at a terminal, or by the end of its parent, and no
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


def _tell_parent(parent: int) -> None:
    if os.getppid() == parent:  # which may have died, and somebody else have its number
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
        # A parent holds it back until here, where it does not end the process any more.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)
