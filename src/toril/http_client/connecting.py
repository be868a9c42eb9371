"""Connects to one origin: looks up its name, checks the addresses with `Egress`, and connects to an allowed one.

Failures are values, `ConnectFailed` or `TimedOut`; nothing is raised for them.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import TypeVar

from toril.core.outcome import ERR_TLS, ConnectFailed, TimedOut
from toril.http_client.address_race import AddressRace
from toril.http_client.egress import Egress
from toril.http_client.name_lookups import NameLookups
from toril.http_client.outbound_route import Origin, OutboundRoute
from toril.http_client.tls_contexts import failure_words, system_context

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Looks a host name up and returns its addresses, the best one first. Raises `socket.gaierror` where there are none."""

Connected = TypeVar("Connected", bound=asyncio.Protocol)

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class Network:
    """What all connections share: the resolver of names, and the system's certificate authorities.

    Args:
        resolve: looks names up; None looks them up as `NameLookups` does.
    """

    def __init__(self, resolve: Resolve | None = None) -> None:
        self.resolve: Resolve = resolve or NameLookups()
        self._context: ssl.SSLContext | None = None

    def distrust(self, host: str) -> None:
        """Look this host up again the next time: nothing answers at its addresses."""
        if isinstance(self.resolve, NameLookups):
            self.resolve.distrust(host)

    def tls(self) -> ssl.SSLContext:
        """Return the context of all connections whose route has none. It loads the authorities at its first use.

        Raises:
            OSError: as `system_context`.
        """
        if self._context is None:
            self._context = system_context()
        return self._context


class Opening:
    """Opens connections for requests to an origin: to one of its addresses, or over a socket that leads there.

    TLS is spoken where the origin asks for it, with the name of its URL.
    """

    def __init__(self, origin: Origin, network: Network, route: OutboundRoute | None) -> None:
        self._origin = origin
        self._tls = network.tls if route is None else route.context
        self._loop = asyncio.get_running_loop()

    async def open(
        self, make: Callable[[], Connected], where: str | socket.socket, started: float
    ) -> Connected | ConnectFailed:
        """Return a connection, or why there is none. Raises nothing but `TimeoutError` and `CancelledError`."""
        try:
            return await self._open(make, where)
        except TimeoutError:
            raise
        except ssl.SSLError as exc:
            return ConnectFailed(ERR_TLS, failure_words(exc, self._origin.authority()), perf_counter() - started)
        except (OSError, UnicodeError) as exc:
            return failed_to_connect(exc, self._origin, where if isinstance(where, str) else "", started)

    async def _open(self, make: Callable[[], Connected], where: str | socket.socket) -> Connected:
        name = self._origin.host if self._origin.secure else None
        try:
            tls = self._tls() if self._origin.secure else None
            if isinstance(where, str):
                # The address, not the name: a second look-up could come to another one.
                opening = self._loop.create_connection(make, where, self._origin.port, ssl=tls, server_hostname=name)
            else:
                opening = self._loop.create_connection(make, sock=where, ssl=tls, server_hostname=name)
            _, connection = await opening
        except BaseException:
            if not isinstance(where, str):
                where.close()
            raise
        return connection


class Connector:
    """Connects to the origin of a URL.

    Args:
        url: an http or https URL.
        connect_timeout_s: for name lookup, TCP and TLS together.
        egress: which addresses may be connected to; None is for URLs that the operator has chosen, or toril itself.
        network: looks names up, and knows the certificate authorities.
        route: the operator's way to it; None is the usual one.
    """

    def __init__(
        self,
        url: str,
        connect_timeout_s: float,
        egress: Egress | None,
        network: Network,
        route: OutboundRoute | None = None,
    ) -> None:
        self._origin = Origin.of(url)
        self._connect_timeout_s = connect_timeout_s
        self._egress = egress
        self._network = network
        self._opening = Opening(self._origin, network, route)

    async def connect(
        self, make: Callable[[], Connected], started: float, timeout_s: float
    ) -> Connected | ConnectFailed | TimedOut:
        """Return a connection to the first address that is allowed and answers; else the failure of the first one.

        Args:
            make: makes the connection's protocol.
            started: when the request began (`perf_counter`), for the durations of failures.
            timeout_s: how long the whole request may take from then on.
        """
        host = self._origin.host
        ends_at = min(perf_counter() + self._connect_timeout_s, started + timeout_s)
        try:
            addresses, refusals = await self._addresses(ends_at - perf_counter())
        except TimeoutError:
            return TimedOut("connect", perf_counter() - started)
        except socket.gaierror as exc:
            detail = f"The host name {host} cannot be resolved ({exc.strerror})"
            return ConnectFailed("ENOTFOUND", detail, perf_counter() - started)
        except (OSError, UnicodeError) as exc:
            return failed_to_connect(exc, self._origin, "", started)
        if not addresses:
            return ConnectFailed("EGRESS_DENIED", "; ".join(refusals), perf_counter() - started)
        made = await self._connect_to(addresses, make, ends_at - perf_counter(), started)
        if isinstance(made, (ConnectFailed, TimedOut)):
            self._network.distrust(host)
        return made

    async def _addresses(self, patience_s: float) -> tuple[list[str], list[str]]:
        """Return the host's addresses that are allowed, and why the others are not."""
        host = self._origin.host
        denied = self._egress.refuses_origin(host, self._origin.port) if self._egress is not None else None
        if denied is not None:
            return [], [denied]
        if self._origin.literal is not None:
            return [self._origin.literal], []
        async with asyncio.timeout(patience_s):
            found = await self._network.resolve(host)
        if self._egress is None:
            return list(found), []
        # Judged for each connection, remembered addresses too.
        judged = [(address, self._egress.refuses(host, address)) for address in found]
        allowed = [address for address, refusal in judged if refusal is None]
        return allowed, [refusal for _, refusal in judged if refusal is not None]

    async def _connect_to(
        self, addresses: list[str], make: Callable[[], Connected], patience_s: float, started: float
    ) -> Connected | ConnectFailed | TimedOut:
        race = AddressRace(addresses, self._origin.port)
        try:
            async with asyncio.timeout(patience_s):
                if len(addresses) == 1:
                    return await self._opening.open(make, addresses[0], started)
                sock = await race.run()
                if sock is not None:
                    return await self._opening.open(make, sock, started)
        except TimeoutError:
            if not race.failures:
                return TimedOut("connect", perf_counter() - started)
        return failed_race(race, self._origin, started)


def failed_race(race: AddressRace, origin: Origin, started: float) -> ConnectFailed:
    """Return the failure of a race without a winner."""
    outcomes = [failed_to_connect(exc, origin, address, started) for address, exc in race.failures]
    # Where one could not be tried for want of a descriptor, the failures of the others do not describe the host.
    return next((outcome for outcome in outcomes if outcome.exhausted), outcomes[0])


def failed_to_connect(exc: OSError | UnicodeError, origin: Origin, address: str, started: float) -> ConnectFailed:
    """Return the failure to connect to one address of an origin, in words."""
    number = exc.errno if isinstance(exc, OSError) else None
    # IPv4: every local port towards this server is taken. IPv6: the machine may simply have none.
    ports_gone = number == errno.EADDRNOTAVAIL and ":" not in address
    code, detail = _named(exc, origin.host, origin.port)
    return ConnectFailed(code, detail, perf_counter() - started, exhausted=number in _EXHAUSTED or ports_gone)


def _named(exc: OSError | UnicodeError, host: str, port: int) -> tuple[str, str]:
    number = exc.errno if isinstance(exc, OSError) else None
    code = errno.errorcode.get(number or 0, "ENOTFOUND" if isinstance(exc, UnicodeError) else "ECONNFAILED")
    if code == "ECONNREFUSED":
        return code, f"Nothing accepts connections at {host}:{port}"
    return code, f"{host}:{port}: {exc}"
