"""Connections to one origin: looks its name up, asks the `Egress`, connects to an address that may be connected to.

Used by the HTTP clients beside it. What goes wrong is a value, `ConnectFailed` or `TimedOut`; nothing is raised for it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import TypeVar
from urllib.parse import urlsplit

from toril.adapters.address_race import AddressRace
from toril.adapters.name_lookups import NameLookups
from toril.core.egress import Egress, literal_address
from toril.core.outcome import ConnectFailed, TimedOut

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Looks a host name up: its addresses, the best one first. Raises `socket.gaierror` where there are none."""

Connected = TypeVar("Connected", bound=asyncio.Protocol)

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class Network:
    """What connections share: how names are looked up, and the system's certificate authorities.

    Args:
        resolve: looks names up; None looks them up as `NameLookups` does.
    """

    def __init__(self, resolve: Resolve | None = None) -> None:
        self.resolve: Resolve = resolve or NameLookups()
        self._context: ssl.SSLContext | None = None

    def distrust(self, host: str) -> None:
        """Nothing answers at the addresses of this host: look it up again the next time."""
        if isinstance(self.resolve, NameLookups):
            self.resolve.distrust(host)

    def tls(self) -> ssl.SSLContext:
        """Return the one context of all connections. The authorities are loaded when first needed: that takes 50 ms.

        Raises:
            OSError: there is no descriptor to read them with, which OpenSSL would take for an empty file.
        """
        if self._context is None:
            os.close(os.open(os.devnull, os.O_RDONLY))
            self._context = ssl.create_default_context()
            self._context.set_alpn_protocols(["http/1.1"])
        return self._context


class Connector:
    """Connects to the origin of a URL.

    Args:
        url: an http or https URL.
        connect_timeout_s: for name lookup, TCP and TLS together.
        egress: which addresses may be connected to; None is for URLs that the operator has chosen, or toril itself.
        network: looks names up, and knows the certificate authorities.
    """

    def __init__(self, url: str, connect_timeout_s: float, egress: Egress | None, network: Network) -> None:
        parts = urlsplit(url)
        self._host = host = parts.hostname or ""
        self._secure = parts.scheme == "https"
        self._port = parts.port or (443 if self._secure else 80)
        literal = literal_address(host)
        self._literal = None if literal is None else host if ":" in host else str(literal)
        self._connect_timeout_s = connect_timeout_s
        self._egress = egress
        self._network = network
        self._loop = asyncio.get_running_loop()

    async def connect(
        self, make: Callable[[], Connected], started: float, timeout_s: float
    ) -> Connected | ConnectFailed | TimedOut:
        """A connection to the first address that is allowed and answers; else what the first of them came to.

        Args:
            make: makes the connection's protocol.
            started: when the request began (`perf_counter`), for the durations of what goes wrong.
            timeout_s: how long the whole request may take from then on.
        """
        ends_at = min(perf_counter() + self._connect_timeout_s, started + timeout_s)
        try:
            addresses, refusals = await self._addresses(ends_at - perf_counter())
        except TimeoutError:
            return TimedOut("connect", perf_counter() - started)
        except socket.gaierror as exc:
            detail = f"The host name {self._host} cannot be resolved ({exc.strerror})"
            return ConnectFailed("ENOTFOUND", detail, perf_counter() - started)
        except (OSError, UnicodeError) as exc:
            return self._failed(exc, "", started)
        if not addresses:
            return ConnectFailed("EGRESS_DENIED", "; ".join(refusals), perf_counter() - started)
        made = await self._connect_to(addresses, make, ends_at - perf_counter(), started)
        if isinstance(made, (ConnectFailed, TimedOut)):
            self._network.distrust(self._host)
        return made

    async def _addresses(self, patience_s: float) -> tuple[list[str], list[str]]:
        """The host's addresses that may be connected to, and why the others may not."""
        denied = self._egress.refuses_origin(self._host, self._port) if self._egress is not None else None
        if denied is not None:
            return [], [denied]
        if self._literal is not None:
            return [self._literal], []
        async with asyncio.timeout(patience_s):
            found = await self._network.resolve(self._host)
        if self._egress is None:
            return list(found), []
        # Each time anew, also for what is remembered: nothing is connected to that has not been judged.
        judged = [(address, self._egress.refuses(self._host, address)) for address in found]
        allowed = [address for address, refusal in judged if refusal is None]
        return allowed, [refusal for _, refusal in judged if refusal is not None]

    async def _connect_to(
        self, addresses: list[str], make: Callable[[], Connected], patience_s: float, started: float
    ) -> Connected | ConnectFailed | TimedOut:
        race = AddressRace(addresses, self._port)
        try:
            async with asyncio.timeout(patience_s):
                if len(addresses) == 1:
                    return await self._open(make, addresses[0])
                sock = await race.run()
                if sock is not None:
                    return await self._open(make, sock)
        except TimeoutError:
            if not race.failures:
                return TimedOut("connect", perf_counter() - started)
        except ssl.SSLError as exc:
            return ConnectFailed("ERR_TLS", exc.reason or str(exc), perf_counter() - started)
        except (OSError, UnicodeError) as exc:
            return self._failed(exc, addresses[0], started)
        outcomes = [self._failed(exc, address, started) for address, exc in race.failures]
        # Where one was not even tried for want of a descriptor, the others say nothing of the host.
        return next((outcome for outcome in outcomes if outcome.exhausted), outcomes[0])

    async def _open(self, make: Callable[[], Connected], where: str | socket.socket) -> Connected:
        """A connection to an address, or over a socket that is connected, with TLS where the URL asks for it."""
        name = self._host if self._secure else None
        try:
            tls = self._network.tls() if self._secure else None
            if isinstance(where, str):
                # The address, not the name: a second look-up could come to another one.
                opening = self._loop.create_connection(make, where, self._port, ssl=tls, server_hostname=name)
            else:
                opening = self._loop.create_connection(make, sock=where, ssl=tls, server_hostname=name)
            _, connection = await opening
        except BaseException:
            if not isinstance(where, str):
                where.close()
            raise
        return connection

    def _failed(self, exc: OSError | UnicodeError, address: str, started: float) -> ConnectFailed:
        number = exc.errno if isinstance(exc, OSError) else None
        # Without IPv6 this is what its addresses come to; with IPv4 every port towards this server is taken.
        ports_gone = number == errno.EADDRNOTAVAIL and ":" not in address
        code, detail = _named(exc, self._host, self._port)
        return ConnectFailed(code, detail, perf_counter() - started, exhausted=number in _EXHAUSTED or ports_gone)


def _named(exc: OSError | UnicodeError, host: str, port: int) -> tuple[str, str]:
    number = exc.errno if isinstance(exc, OSError) else None
    code = errno.errorcode.get(number or 0, "ENOTFOUND" if isinstance(exc, UnicodeError) else "ECONNFAILED")
    if code == "ECONNREFUSED":
        return code, f"Nothing accepts connections at {host}:{port}"
    return code, f"{host}:{port}: {exc}"
