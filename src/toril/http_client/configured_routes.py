"""Makes routes of what an operator has configured: one for a destination, or by host for what callers name."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from msgspec.structs import replace

from toril.core.destination import OutboundRequest
from toril.core.http.outbound_policy import HostRoute, OutboundPolicy
from toril.core.outcome import Outcome
from toril.http_client.access_tokens import AccessTokens
from toril.http_client.client import HttpClient, always
from toril.http_client.connecting import Network
from toril.http_client.egress import HostList
from toril.http_client.outbound_route import OutboundRoute

_MOST_TOKEN_ANSWER_BYTES = 256 * 1024


def route_of(policy: OutboundPolicy, network: Network, connect_timeout_s: float) -> OutboundRoute:
    """Return the route of a policy. Its OAuth server is reached the same way, and by the system's authorities too."""
    if policy.oauth2 is None:
        return OutboundRoute(policy, network.tls)
    inner = OutboundRoute(replace(policy, oauth2=None), network.tls, trust_system=True)
    client = HttpClient(connect_timeout_s, _MOST_TOKEN_ANSWER_BYTES, network=network).on(always(inner))
    url = policy.oauth2.token_url

    async def send(request: OutboundRequest) -> Outcome:
        # Tokens are fetched too seldom to keep a connection.
        pool = client.pool(url)
        try:
            return await pool.send(request)
        finally:
            pool.close()

    return OutboundRoute(policy, network.tls, tokens=AccessTokens(policy.oauth2, send), token_route=inner)


class HostRoutes:
    """The routes to hosts that callers name: the first entry that names a URL's host has its route."""

    def __init__(self, entries: Sequence[HostRoute], network: Network, connect_timeout_s: float) -> None:
        self._routes = [
            (_listed(entry.hosts), "*" in entry.hosts, route_of(entry.outbound, network, connect_timeout_s))
            for entry in entries
        ]

    def renew(self, entries: Sequence[HostRoute]) -> None:
        """Use the certificates and secrets of these entries, which name the same hosts in the same order."""
        for (_, _, route), entry in zip(self._routes, entries, strict=True):
            route.renew(entry.outbound)

    def __call__(self, url: str) -> OutboundRoute | None:
        """Return the route to a URL; None where no entry names its host."""
        host = urlsplit(url).hostname or ""
        return next((route for hosts, every, route in self._routes if every or hosts.has_host(host)), None)


def _listed(hosts: Sequence[str]) -> HostList:
    return HostList.of(host for host in hosts if host != "*")
