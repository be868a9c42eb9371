"""The way to one destination: its TLS context, its proxy, its access tokens. Shared by all pools to the destination.

`renew` takes over what an operator has changed in files while connections are in use; pools notice by `version`, and
keep none of their older connections.
"""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from toril.core.http.outbound_policy import ForwardProxy, OutboundPolicy
from toril.core.outcome import ERR_PROXY, ConnectFailed
from toril.http_client.access_tokens import AccessTokens
from toril.http_client.egress import literal_address
from toril.http_client.tls_contexts import context_of

_AUTHORIZATION = re.compile(rb"\r\nauthorization:[^\r\n]*", re.IGNORECASE)
_PROXY_AUTHORIZATION = re.compile(rb"\r\nproxy-authorization:[^\r\n]*", re.IGNORECASE)


class Origin(Struct, frozen=True):
    """Where a URL leads. `literal` is the host in the usual spelling of addresses, where it is one in any spelling."""

    host: str
    port: int
    secure: bool
    literal: str | None

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return the origin of an http or https URL."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        secure = parts.scheme == "https"
        literal = literal_address(host)
        spelled = None if literal is None else host if ":" in host else str(literal)
        return cls(host, parts.port or (443 if secure else 80), secure, spelled)

    def authority(self, host: str | None = None) -> str:
        """Return host and port, or those of another host with the same port."""
        name = self.host if host is None else host
        return f"[{name}]:{self.port}" if ":" in name else f"{name}:{self.port}"


class ProxyAddress(Struct, frozen=True):
    """Where a forward proxy is, and the header line that authenticates toril there; empty without a secret."""

    origin: Origin
    authorization: bytes

    @classmethod
    def of(cls, proxy: ForwardProxy) -> ProxyAddress:
        """Return the address of a configured proxy."""
        line = b""
        if proxy.secret:
            line = b"proxy-authorization: Basic %b\r\n" % base64.b64encode(proxy.secret.encode())
        return cls(Origin.of(proxy.url), line)

    def __str__(self) -> str:
        return self.origin.authority()

    def refusal(self, status: int, reason: str) -> str:
        """Return what an answer of the proxy itself means."""
        if status != 407:
            return f"The proxy {self} answered {f'{status} {reason}'.rstrip()}"
        if self.authorization:
            return f"The proxy {self} answered 407: it does not accept the user and password of proxy.secret_file"
        return f"The proxy {self} answered 407: it wants a user and a password, and proxy.secret_file names none"


class OutboundRoute:
    """The way to one destination.

    Args:
        policy: the operator's.
        system_tls: returns the context that trusts the system's authorities; used where the policy names no TLS.
        tokens: the access tokens, where the policy has an OAuth client.
        token_route: the way to the OAuth server: the same, without tokens. Renewed with this one.
        trust_system: trust the system's authorities beside the CA of the policy, and not in place of it.

    Attributes:
        version: changes when older connections must not be used again.
        proxy: what every connection goes through; None where it goes straight.
    """

    def __init__(
        self,
        policy: OutboundPolicy,
        system_tls: Callable[[], ssl.SSLContext],
        *,
        tokens: AccessTokens | None = None,
        token_route: OutboundRoute | None = None,
        trust_system: bool = False,
    ) -> None:
        self._system_tls = system_tls
        self._trust_system = trust_system
        self._token_route = token_route
        self._context: ssl.SSLContext | None = None
        self.tokens = tokens
        self.version = 0
        self._policy = policy
        self.proxy = None if policy.proxy is None else ProxyAddress.of(policy.proxy)

    def renew(self, policy: OutboundPolicy) -> None:
        """Use these certificates and secrets from the next connection, token or request on."""
        before, self._policy = self._policy, policy
        if policy.proxy is not None and self.proxy is not None:
            self.proxy = ProxyAddress.of(policy.proxy)
        if (policy.tls, policy.proxy) != (before.tls, before.proxy):
            self._context = None
            self.version += 1
        if self._token_route is not None:
            self._token_route.renew(replace(policy, oauth2=None))
        if self.tokens is not None and policy.oauth2 is not None and policy.oauth2 != before.oauth2:
            self.tokens.renew(policy.oauth2)

    @property
    def has_tls(self) -> bool:
        """True where the operator has named certificates."""
        return self._policy.tls is not None

    def context(self) -> ssl.SSLContext:
        """Return the TLS context of its connections.

        Raises:
            OSError: there is no descriptor to read the system's authorities with.
        """
        if self._policy.tls is None:
            return self._system_tls()
        if self._context is None:
            self._context = context_of(self._policy.tls, trust_system=self._trust_system)
        return self._context


class Routed(Struct, frozen=True):
    """A request's head as it is sent, and the access token in it."""

    head: bytes
    token: bytes = b""


class RouteToOrigin:
    """What becomes of the requests to one origin on a route: their heads, and what an answer says of the route.

    Attributes:
        hint: what else may be the matter where a new connection is closed without an answer.
        rewrites: requests have to be `prepared`, and answers may have a `fault`.
    """

    def __init__(self, route: OutboundRoute, url: str) -> None:
        self._route = route
        origin = Origin.of(url)
        # The alert that says so may be lost when the server closes at once (TLS 1.3).
        maybe = "; a server that misses or does not accept a client certificate does that, too"
        self.hint = maybe if origin.secure and route.has_tls else ""
        # A request over TLS goes through a tunnel, any other one names its destination to the proxy (RFC 9112 3.2.2).
        self._absolute = b""
        if route.proxy is not None and not origin.secure:
            self._absolute = f"http://{origin.authority(origin.literal)}".encode(
                "idna" if not url.isascii() else "ascii"
            )
        self.rewrites = route.tokens is not None or bool(self._absolute)

    @property
    def version(self) -> int:
        """As `OutboundRoute.version`."""
        return self._route.version

    async def prepared(self, head: bytes, patience_s: float) -> Routed | ConnectFailed:
        """Return a request's head for this route, or why it cannot be sent: there is no access token."""
        tokens, proxy = self._route.tokens, self._route.proxy
        token = b""
        if tokens is not None:
            found = await tokens.token(patience_s)
            if isinstance(found, ConnectFailed):
                return found
            token = found
            line, _, rest = _AUTHORIZATION.sub(b"", head).partition(b"\r\n")
            head = b"%b\r\nauthorization: Bearer %b\r\n%b" % (line, token, rest)
        if self._absolute and proxy is not None:
            line, _, rest = _PROXY_AUTHORIZATION.sub(b"", head).partition(b"\r\n")
            method, _, target = line.partition(b" ")
            if target.startswith(b"* "):
                target = target[1:]  # OPTIONS for the whole server (RFC 9112 3.2.4)
            head = b"%b %b%b\r\n%b%b" % (method, self._absolute, target, proxy.authorization, rest)
        return Routed(head, token)

    def fault(self, status: int, reason: str, token: bytes) -> ConnectFailed | None:
        """Return the failure that an answer is where it comes from the proxy; renew a token that has been refused."""
        proxy, tokens = self._route.proxy, self._route.tokens
        if status == 401 and tokens is not None:
            tokens.refused(token)
        if status == 407 and self._absolute and proxy is not None:
            return ConnectFailed(ERR_PROXY, proxy.refusal(status, reason), 0.0)
        return None
