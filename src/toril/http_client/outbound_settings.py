"""Reads `tls`, `proxy` and `auth: {scheme: oauth2}` of a configuration, with what their files hold.

The same keys for targets, upstreams and registered workers. A mistake is a fault that names its field; what secret
files hold is never in a fault.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from toril.core.http.headers import is_header_value
from toril.core.http.outbound_policy import ClientCredentials, ForwardProxy, HostRoute, OutboundPolicy, TlsFiles
from toril.core.settings.section import Section
from toril.core.settings.setting import Faults
from toril.core.settings.values import choice, text, written_text
from toril.http_client.egress import read_entry
from toril.http_client.tls_contexts import show, trust

OUTBOUND_KEYS = ("tls", "proxy")
"""The keys that every destination may have beside `auth`."""
OAUTH_KEYS = ("token_url", "client_id", "secret_file", "scopes")
"""The keys of `auth` with the scheme oauth2."""

ReadSecret = Callable[[Path], str]
"""Reads a file that holds a secret; raises ValueError where it cannot."""

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")


def no_files(file: Path) -> str:
    """Read no file: for tables of settings that read no values."""
    raise ValueError(f"the file {file} is not read here")


def outbound_policy(
    destination: Section, oauth2: ClientCredentials | None, read_secret_file: ReadSecret
) -> OutboundPolicy:
    """Return the way to a destination; `oauth2` is what its `auth` says."""
    return OutboundPolicy(
        tls=_tls(destination, read_secret_file), proxy=_proxy(destination, read_secret_file), oauth2=oauth2
    )


def only_oauth2(destination: Section, read_secret_file: ReadSecret) -> ClientCredentials | None:
    """Return the OAuth client of a destination whose `auth` knows no other scheme."""
    section = destination.section("auth", ("scheme", *OAUTH_KEYS))
    if section is None or section.need("scheme", choice("oauth2")) is None:
        return None
    return client_credentials(section, read_secret_file)


def client_credentials(auth: Section, read_secret_file: ReadSecret) -> ClientCredentials | None:
    """Return the OAuth client of an `auth` section; None where something of it is wrong, which is noted."""
    token_url, client_id = auth.need("token_url", _token_url), auth.need("client_id", written_text)
    file = auth.need("secret_file", text)
    secret = None if file is None else auth.need("secret_file", lambda value: _secret(read_secret_file(Path(value))))
    none: tuple[str, ...] = ()
    scopes = auth.read("scopes", _scopes, none)
    if token_url is None or client_id is None or file is None or secret is None:
        return None
    return ClientCredentials(token_url=token_url, client_id=client_id, secret_file=file, secret=secret, scopes=scopes)


def host_routes(value: Any, read_secret_file: ReadSecret) -> tuple[HostRoute, ...]:
    """Return the ways to registered workers, or for callbacks, by the hosts that callers name.

    Raises:
        ValueError: it is no list.
        Faults: everything that is wrong with it, each with the number (from 1) of the entry.
    """
    if not isinstance(value, list):
        raise ValueError("it must be a list, each with hosts and some of tls, proxy and auth")  # noqa: TRY004 - as settings
    faults: list[str] = []
    found: list[HostRoute] = []
    for number, entry in enumerate(value, 1):
        section = Section(entry, f"number {number}", ("hosts", "auth", *OUTBOUND_KEYS), faults)
        hosts = section.need("hosts", _hosts) or ()
        policy = outbound_policy(section, only_oauth2(section, read_secret_file), read_secret_file)
        if "*" in hosts and "auth" in section:
            # Callers choose these hosts: one of their own would be sent the token.
            section.refuse("auth", "name the hosts that may be sent an access token; * is every host that callers name")
        for host in hosts:
            before = next(
                (n for n, one in enumerate(found, 1) if any(_covers(other, host) for other in one.hosts)), None
            )
            if before is not None:
                section.refuse("hosts", f"{host} is never reached: number {before} has it, and the first entry applies")
        found.append(HostRoute(hosts=hosts, outbound=policy))
    if faults:
        raise Faults(faults)
    return tuple(found)


def _covers(entry: str, other: str) -> bool:
    """Return True if every host that `other` stands for is one of `entry`."""
    if entry == "*" or other == "*":
        return entry == "*"
    one, two = read_entry(entry), read_entry(other)
    if isinstance(one, str) or isinstance(two, str):
        return one == two or (isinstance(one, str) and one.startswith(".") and str(two).endswith(one))
    if isinstance(one, IPv4Network) and isinstance(two, IPv4Network):
        return two.subnet_of(one)
    return isinstance(one, IPv6Network) and isinstance(two, IPv6Network) and two.subnet_of(one)


def _hosts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError('it must be a list of hosts such as "*.partner.example"; "*" is all')
    hosts = tuple(text(host) for host in value)
    for host in hosts:
        if host != "*":
            read_entry(host)
    return hosts


def _tls(destination: Section, read_secret_file: ReadSecret) -> TlsFiles | None:
    section = destination.section("tls", ("ca_file", "cert_file", "key_file"))
    if section is None:
        return None
    ca_file, cert_file, key_file = (section.read(key, text, None) for key in ("ca_file", "cert_file", "key_file"))
    if "ca_file" not in section and "cert_file" not in section:
        section.refuse("key_file" if key_file else "ca_file", "tls needs a ca_file, a cert_file or both")
        return None
    ca, cert, key = (
        section.read(name, lambda value: read_secret_file(Path(value)), None) if file is not None else None
        for name, file in (("ca_file", ca_file), ("cert_file", cert_file), ("key_file", key_file))
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        _checked(section, "ca_file", lambda: trust(context, ca))
    if cert is not None and (key is not None or key_file is None):
        _checked(section, "cert_file" if key is None else "key_file", lambda: show(context, cert, key or ""))
    elif key_file is not None and cert_file is None:
        section.refuse("key_file", "it needs the cert_file that it belongs to")
    return TlsFiles(
        ca_file=ca_file, cert_file=cert_file, key_file=key_file, ca=ca or "", cert=cert or "", key=key or ""
    )


def _checked(section: Section, key: str, check: Callable[[], None]) -> None:
    """Note what a check of a file's content finds."""
    try:
        check()
    except ValueError as exc:
        section.refuse(key, str(exc))


def _proxy(destination: Section, read_secret_file: ReadSecret) -> ForwardProxy | None:
    section = destination.section("proxy", ("url", "secret_file"))
    if section is None:
        return None
    url = section.need("url", _proxy_url)
    file = section.read("secret_file", text, None)
    secret = ""
    if file is not None:
        secret = section.read("secret_file", lambda value: _user_and_password(read_secret_file(Path(value))), "")
    return None if url is None else ForwardProxy(url=url, secret_file=file, secret=secret)


def _http_url(value: Any, schemes: tuple[str, ...], secrets_at: str) -> str:
    url = text(value)
    try:
        parts = urlsplit(url)
        sound = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise ValueError("it is no URL with a host") from None
    if parts.username is not None or parts.password is not None:
        # Not repeated: it holds a secret.
        raise ValueError(f"it must hold no user and no password; they belong into {secrets_at}")
    if not sound or any(not "!" <= char <= "~" for char in url) or "#" in url:
        raise ValueError(f"{url!r} is not a URL such as {schemes[-1]}://host")
    return url


def _token_url(value: Any) -> str:
    return _http_url(value, ("http", "https"), "client_id and secret_file")


def _proxy_url(value: Any) -> str:
    url = _http_url(value, ("http",), "secret_file")
    parts = urlsplit(url)
    if parts.path not in {"", "/"} or parts.query:
        raise ValueError(f"{url!r} must have neither path nor query")
    return url


def _secret(secret: str) -> str:
    if not secret or not secret.isprintable():
        raise ValueError("the file must hold the client's secret, in one line")
    return secret


def _user_and_password(secret: str) -> str:
    if ":" not in secret or not is_header_value(secret.encode()):
        raise ValueError("the file must hold user:password in one line")
    return secret


def _scopes(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(scope, str) and _SCOPE.match(scope) for scope in value):
        raise ValueError("it must be a list of scopes, each without spaces")
    return tuple(value)
