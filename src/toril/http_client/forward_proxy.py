"""Connects to an origin through a forward proxy and never round it: by CONNECT for https, to the proxy itself for http.

The proxy is the operator's, so it may be anywhere. Where the destination may be is still for the `Egress` to say,
although the proxy looks the name up by itself: a tunnel is asked for to the address that was checked here, not to the
name, unless the operator's allow list names the host. Plain http cannot be sent so, since the proxy goes by the name
in the request; there the allow list must name the host.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from time import perf_counter

from msgspec import Struct

from toril.core.outcome import ERR_PROXY, ConnectFailed, TimedOut
from toril.http_client.address_race import AddressRace
from toril.http_client.connecting import Connected, Network, Opening, failed_race
from toril.http_client.egress import Egress
from toril.http_client.outbound_route import Origin, OutboundRoute, ProxyAddress

_MOST_HEAD_BYTES = 64 * 1024
_MOST_ADDRESSES = 3
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)(?: ([^\r\n]*))?\r\n")


class _Refusal(Struct, frozen=True):
    """Why there is no tunnel; `status` is 0 where the proxy has answered with none."""

    status: int
    detail: str


class ProxyConnector:
    """Connects to the origin of a URL through the proxy of its route. As `Connector`."""

    def __init__(
        self, url: str, connect_timeout_s: float, egress: Egress | None, network: Network, route: OutboundRoute
    ) -> None:
        self._origin = Origin.of(url)
        self._connect_timeout_s = connect_timeout_s
        self._egress = egress
        self._network = network
        self._route = route
        self._opening = Opening(self._origin, network, route)
        self._loop = asyncio.get_running_loop()

    async def connect(
        self, make: Callable[[], Connected], started: float, timeout_s: float
    ) -> Connected | ConnectFailed | TimedOut:
        """Return a connection for requests to the origin, or why there is none. As `Connector.connect`."""
        proxy = self._route.proxy
        if proxy is None:
            raise TypeError("a route through a proxy keeps it")
        ends_at = min(perf_counter() + self._connect_timeout_s, started + timeout_s)
        try:
            async with asyncio.timeout(ends_at - perf_counter()):
                sock = await self._socket(proxy, started)
        except TimeoutError:
            return self._fault(f"The proxy {proxy} made no connection to {self._origin.authority()} in time", started)
        if isinstance(sock, ConnectFailed):
            return sock
        try:
            async with asyncio.timeout(ends_at - perf_counter()):
                return await self._opening.open(make, sock, started)
        except TimeoutError:
            return TimedOut("connect", perf_counter() - started)

    async def _socket(self, proxy: ProxyAddress, started: float) -> socket.socket | ConnectFailed:
        """Return a socket that leads to the origin, or to the proxy where requests are sent to the proxy itself."""
        found = await self._destinations(started)
        if isinstance(found, ConnectFailed):
            return found
        if not self._origin.secure:
            return await self._reach(proxy, started)
        refused = self._fault("", started)
        for destination in found[:_MOST_ADDRESSES]:
            sock = await self._reach(proxy, started)
            if isinstance(sock, ConnectFailed):
                return sock
            try:
                refusal = await self._tunnel(sock, proxy, self._origin.authority(destination))
            except BaseException:
                sock.close()
                raise
            if refusal is None:
                return sock
            sock.close()
            refused = self._fault(refusal.detail, started)
            if refusal.status < 500:
                break  # another address of the host would be refused, too
        return refused

    async def _destinations(self, started: float) -> list[str] | ConnectFailed:
        """Return what to ask the proxy for, one after the other: the host's name, or its addresses that are allowed."""
        origin, egress = self._origin, self._egress
        if egress is None:
            return [origin.host]
        denied = egress.refuses_origin(origin.host, origin.port)
        if denied is not None:
            return self._denied(denied, started)
        if origin.literal is not None:
            return [origin.literal]
        trusted = egress.names(origin.host)
        if not trusted and not origin.secure:
            why = "its name would be looked up again by the proxy, so for http:// egress.allow must name it"
            return self._denied(f"{origin.host} is refused: {why}", started)
        try:
            addresses = await self._network.resolve(origin.host)
        except (OSError, UnicodeError) as exc:
            if trusted:
                return [origin.host]
            why = getattr(exc, "strerror", None) or str(exc)
            detail = f"The host name {origin.host} cannot be resolved here ({why}), so its addresses cannot be checked"
            return ConnectFailed("ENOTFOUND", detail, perf_counter() - started)
        judged = [(address, egress.refuses(origin.host, address)) for address in addresses]
        allowed = [address for address, refusal in judged if refusal is None]
        if not allowed:
            return self._denied("; ".join(refusal for _, refusal in judged if refusal is not None), started)
        return [origin.host] if trusted else allowed

    async def _reach(self, proxy: ProxyAddress, started: float) -> socket.socket | ConnectFailed:
        """Return a socket that is connected to the proxy."""
        host, port, literal = proxy.origin.host, proxy.origin.port, proxy.origin.literal
        try:
            addresses = [literal] if literal is not None else await self._network.resolve(host)
        except (OSError, UnicodeError) as exc:
            why = getattr(exc, "strerror", None) or str(exc)
            return self._fault(f"The host name of the proxy {proxy} cannot be resolved ({why})", started)
        race = AddressRace(addresses, port)
        sock = await race.run()
        if sock is not None:
            return sock
        self._network.distrust(host)
        failure = failed_race(race, proxy.origin, started)
        return failure if failure.exhausted else self._fault(f"The proxy cannot be reached: {failure.detail}", started)

    async def _tunnel(self, sock: socket.socket, proxy: ProxyAddress, authority: str) -> _Refusal | None:
        """Ask the proxy for a tunnel (RFC 9110 9.3.6); return why there is none, or None where there is."""
        where = authority.encode("ascii" if authority.isascii() else "idna")
        asked = b"CONNECT %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (where, where, proxy.authorization)
        no_http = _Refusal(0, f"The proxy {proxy} did not answer CONNECT {authority} with HTTP")
        answer = b""
        try:
            await self._loop.sock_sendall(sock, asked)
            while b"\r\n\r\n" not in answer:
                data = await self._loop.sock_recv(sock, 4096)
                answer += data
                if not data or len(answer) > _MOST_HEAD_BYTES:
                    return no_http
        except OSError as exc:
            return _Refusal(0, f"The proxy {proxy} broke off at CONNECT {authority}: {exc.strerror or exc}")
        found = _STATUS.match(answer)
        if found is None:
            return no_http
        status, reason = int(found[1]), (found[2] or b"").decode("latin-1")[:200]
        if not 200 <= status < 300:
            return _Refusal(status, f"{proxy.refusal(status, reason)} (CONNECT {authority})")
        if answer.find(b"\r\n\r\n") != len(answer) - 4:
            return _Refusal(0, f"The proxy {proxy} sent more than its answer to CONNECT {authority}")
        return None

    def _denied(self, refusal: str, started: float) -> ConnectFailed:
        return ConnectFailed("EGRESS_DENIED", refusal, perf_counter() - started)

    def _fault(self, detail: str, started: float) -> ConnectFailed:
        return ConnectFailed(ERR_PROXY, detail, perf_counter() - started)
