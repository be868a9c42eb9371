"""Connections to one origin: looks its name up, asks the `Egress`, connects to an address that may be connected to.

Used by the HTTP clients beside it. What goes wrong is a value, `ConnectFailed` or `TimedOut`; nothing is raised for it.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import TypeVar
from urllib.parse import urlsplit

from toril.core.egress import Egress, literal_address
from toril.core.outcome import ConnectFailed, TimedOut

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Looks a host name up: its addresses, the best one first. Raises `socket.gaierror` where there are none."""

Connected = TypeVar("Connected", bound=asyncio.Protocol)


async def look_up(host: str) -> list[str]:
    """The addresses of a host as the system knows them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(_text(*address) for *_, address in found))


def _text(host: str | int, _port: object = 0, _flow: object = 0, zone: int = 0) -> str:
    return f"{host}%{zone}" if zone else str(host)


class Network:
    """What connections share: how names are looked up, and the system's certificate authorities.

    Args:
        resolve: looks names up.
    """

    def __init__(self, resolve: Resolve = look_up) -> None:
        self.resolve = resolve
        self._context: ssl.SSLContext | None = None

    def tls(self) -> ssl.SSLContext:
        """Return the one context of all connections. The authorities are loaded when first needed: that takes 50 ms."""
        if self._context is None:
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
            return ConnectFailed(*_named(exc, self._host, self._port), perf_counter() - started)
        first: ConnectFailed | TimedOut | None = None
        for tried, address in enumerate(addresses):
            # An address that does not answer must leave time for the others.
            share_s = (ends_at - perf_counter()) / (len(addresses) - tried)
            made = await self._connect_to(address, make, share_s, started)
            if not isinstance(made, (ConnectFailed, TimedOut)):
                return made
            first = first or made
        return first or ConnectFailed("EGRESS_DENIED", "; ".join(refusals), perf_counter() - started)

    async def _addresses(self, patience_s: float) -> tuple[list[str], list[str]]:
        """The host's addresses that may be connected to, and why the others may not."""
        denied = self._egress.refuses_host(self._host) if self._egress is not None else None
        if denied is not None:
            return [], [denied]
        if self._literal is not None:
            return [self._literal], []
        async with asyncio.timeout(patience_s):
            found = await self._network.resolve(self._host)
        if self._egress is None:
            return list(found), []
        judged = [(address, self._egress.refuses(self._host, address)) for address in found]
        allowed = [address for address, refusal in judged if refusal is None]
        return allowed, [refusal for _, refusal in judged if refusal is not None]

    async def _connect_to(
        self, address: str, make: Callable[[], Connected], patience_s: float, started: float
    ) -> Connected | ConnectFailed | TimedOut:
        try:
            async with asyncio.timeout(patience_s):
                _, connection = await self._loop.create_connection(
                    make,
                    address,  # not the name: a second look-up could come to another address
                    self._port,
                    ssl=self._network.tls() if self._secure else None,
                    server_hostname=self._host if self._secure else None,
                )
        except TimeoutError:
            return TimedOut("connect", perf_counter() - started)
        except ssl.SSLError as exc:
            return ConnectFailed("ERR_TLS", exc.reason or str(exc), perf_counter() - started)
        except (OSError, UnicodeError) as exc:
            return ConnectFailed(*_named(exc, self._host, self._port), perf_counter() - started)
        return connection


def _named(exc: OSError | UnicodeError, host: str, port: int) -> tuple[str, str]:
    number = exc.errno if isinstance(exc, OSError) else None
    code = errno.errorcode.get(number or 0, "ENOTFOUND" if isinstance(exc, UnicodeError) else "ECONNFAILED")
    if code == "ECONNREFUSED":
        return code, f"Nothing accepts connections at {host}:{port}"
    return code, f"{host}:{port}: {exc}"
