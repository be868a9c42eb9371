"""How requests leave for one destination: over which TLS, through which proxy, and with whose access token.

One set of structs for targets, upstreams and registered workers. They hold what the files held, and never show it in
their repr. `toril.http_client.outbound_settings` reads them.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace


class TlsFiles(Struct, frozen=True, kw_only=True):
    """The authorities that a server's certificate must come from, and the certificate that toril shows.

    `ca`, `cert` and `key` are what the files hold, as PEM. Without a CA the system's authorities are trusted; without a
    key file the certificate's file holds the key.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    ca: str = ""
    cert: str = ""
    key: str = ""

    def __repr__(self) -> str:
        return f"TlsFiles(ca_file={self.ca_file!r}, cert_file={self.cert_file!r}, key_file={self.key_file!r})"


class ForwardProxy(Struct, frozen=True, kw_only=True):
    """An HTTP proxy between toril and the destination. `secret` is the `user:password` that its file holds."""

    url: str
    secret_file: str | None = None
    secret: str = ""

    def __repr__(self) -> str:
        return f"ForwardProxy(url={self.url!r}, secret_file={self.secret_file!r})"


class ClientCredentials(Struct, frozen=True, kw_only=True):
    """A client of an OAuth server that gets its access tokens by its own secret (RFC 6749 4.4)."""

    token_url: str
    client_id: str
    secret_file: str
    secret: str = ""
    scopes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"ClientCredentials(token_url={self.token_url!r}, client_id={self.client_id!r}, scopes={self.scopes!r})"


class OutboundPolicy(Struct, frozen=True, kw_only=True):
    """The way to one destination. What is None is as usual: the system's authorities, no proxy, no access token."""

    tls: TlsFiles | None = None
    proxy: ForwardProxy | None = None
    oauth2: ClientCredentials | None = None


DIRECT = OutboundPolicy()


class HostRoute(Struct, frozen=True, kw_only=True):
    """The way to the registered workers, or for the callbacks, at some hosts.

    A host is a name, `*.example.org`, an address, a network, or `*` for all.
    """

    hosts: tuple[str, ...]
    outbound: OutboundPolicy


def with_what_applies(
    running: OutboundPolicy, wanted: OutboundPolicy, path: str, applied: list[str], pending: list[str]
) -> OutboundPolicy:
    """Return the policy as it runs from now on: what files hold applies at once, all else waits for a restart.

    The keys that changed, each behind `path`, are added to `applied` or to `pending`.
    """
    tls, proxy, oauth2 = running.tls, running.proxy, running.oauth2
    if tls != wanted.tls:
        if tls is not None and wanted.tls is not None:
            tls = wanted.tls
            applied.append(f"{path}.tls")
        else:
            pending.append(f"{path}.tls")
    if proxy != wanted.proxy:
        if proxy is not None and wanted.proxy is not None and proxy.url == wanted.proxy.url:
            proxy = wanted.proxy
            applied.append(f"{path}.proxy.secret_file")
        else:
            pending.append(f"{path}.proxy")
    if oauth2 != wanted.oauth2:
        if oauth2 is not None and wanted.oauth2 is not None and _same_client(oauth2, wanted.oauth2):
            oauth2 = wanted.oauth2
            applied.append(f"{path}.auth.secret_file")
        elif f"{path}.auth" not in pending:
            pending.append(f"{path}.auth")
    return OutboundPolicy(tls=tls, proxy=proxy, oauth2=oauth2)


def _same_client(one: ClientCredentials, other: ClientCredentials) -> bool:
    """Return True where two differ in their secret at most."""
    return one == replace(other, secret=one.secret, secret_file=one.secret_file)
