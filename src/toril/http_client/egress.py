"""Decides where requests to URLs that callers choose may go, by the host's name and by the address that it resolves to.

Owns the ranges of each policy and the meaning of an operator's allow and deny lists. Must never look a name up: the
web asks with a name when a URL is registered, the client with each address before it connects to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal

from msgspec import Struct

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network


def _table(*rows: tuple[str, str]) -> tuple[tuple[str, IpNetwork], ...]:
    return tuple((kind, ip_network(network)) for kind, networks in rows for network in networks.split())


# Every policy refuses these. The metadata services that are not link-local: AWS over IPv6 (instances, pods), Google
# over IPv6, Alibaba, Oracle (classic), and Azure's wire server.
_NEVER = _table(
    ("a cloud metadata address", "fd00:ec2::254 fd00:ec2::23 fd20:ce::254 100.100.100.200 192.0.0.192 168.63.129.16"),
    ("a link-local address", "169.254.0.0/16 fe80::/10"),
)

# IANA's registries of special-purpose addresses, where they say that these are not globally reachable.
_NOT_PUBLIC = _table(
    ("an unspecified address", "0.0.0.0/8 ::/128"),
    ("a loopback address", "127.0.0.0/8 ::1/128"),
    ("a private address", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 fc00::/7 fec0::/10"),
    ("a shared address", "100.64.0.0/10"),
    ("a multicast address", "224.0.0.0/4 ff00::/8"),
    ("a reserved address", "192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24"),
    ("a reserved address", "240.0.0.0/4 2001::/23 2001:db8::/32 2002::/16 3fff::/20"),
)

OTHER_PROTOCOLS = frozenset(
    {
        1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109,
        110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530,
        531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190,
        5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
    }
)  # fmt: skip
"""Ports of services that are not HTTP and that a request could confuse: the bad ports of the Fetch standard."""

_METADATA_HOSTS = frozenset({"metadata.google.internal", "metadata.goog"})
_GLOBAL_IPV6 = IPv6Network("2000::/3")
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_6TO4 = IPv6Network("2002::/16")
# Behind their prefix stands an IPv4 address: NAT64 (RFC 6052), its local prefix (RFC 8215), IPv4-compatible (RFC 4291).
_ENDING_IN_IPV4 = (_NAT64, IPv6Network("64:ff9b:1::/48"), IPv6Network("::/96"))

_NUMBER = re.compile(r"(?:0x[0-9a-f]+|0[0-7]*|[1-9][0-9]*)\Z")
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\Z")


class EgressPolicy(Struct, frozen=True, kw_only=True):
    """The addresses that endpoints of callers may have; deny beats allow, allow exempts from the policy."""

    policy: Literal["internal", "public"] = "internal"
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class Egress:
    """One policy with its lists: deny beats allow, allow exempts from the policy."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy.policy
        self._allow = HostList.of(policy.allow)
        self._deny = HostList.of(policy.deny)
        self._ranges = _NEVER if policy.policy == "internal" else (*_NEVER, *_NOT_PUBLIC)

    def refuses_host(self, host: str) -> str | None:
        """Return why this host is refused whatever its addresses are; None if its addresses decide.

        A host that is an address, in any spelling, is judged by it.
        """
        literal = literal_address(host)
        return self._refuses_name(host) if literal is None else self.refuses(host, str(literal))

    def refuses_origin(self, host: str, port: int | None) -> str | None:
        """Return why this host or this port is refused; a port of None is the scheme's own.

        A host that the allow list names may have any port.
        """
        refusal = self.refuses_host(host)
        if refusal is None and port in OTHER_PROTOCOLS and not self.names(host):
            return f"port {port} belongs to another protocol"
        return refusal

    def names(self, host: str) -> bool:
        """Return True if the allow list names this host, or the address that it is."""
        return self._allow.has_host(host)

    def refuses(self, host: str, address: str) -> str | None:
        """Return why no connection to this address may be made for this host; None if it may."""
        denied = self._refuses_name(host)
        if denied is not None:
            return denied
        parsed = _parse(address)
        where = host if _is_plain(host) else f"{host} ({address})"
        for meant in meanings(parsed):
            shown = where if meant == parsed else f"{where} leads to {meant}, which"
            if self._deny.has_address(meant):
                return f"{shown} is refused by the egress deny list"
            if self._allow.has_name(host_name(host)) or self._allow.has_address(meant):
                continue
            kind = self._kind(meant)
            if kind is not None:
                return f"{shown} is {kind}, refused by the egress policy {self._policy}"
        return None

    def _refuses_name(self, host: str) -> str | None:
        name = host_name(host)
        if self._deny.has_name(name):
            return f"{host} is refused by the egress deny list"
        if name in _METADATA_HOSTS and not self._allow.has_name(name):
            return f"{host} serves cloud metadata, refused by the egress policy {self._policy}"
        return None

    def _kind(self, address: IpAddress) -> str | None:
        """Return the kind of this address where the policy refuses that kind."""
        for kind, network in self._ranges:
            if address in network:
                return kind
        if self._policy == "internal" or address.version == 4 or address in _GLOBAL_IPV6 or address in _NAT64:
            return None
        return "a reserved address"


class HostList(Struct, frozen=True):
    """An allow or deny list. A name that begins with a dot stands for all names below it."""

    networks: tuple[IpNetwork, ...]
    names: frozenset[str]

    @classmethod
    def of(cls, entries: Iterable[str]) -> HostList:
        """Return the list of entries as `read_entry` reads them."""
        read = [read_entry(entry) for entry in entries]
        names = frozenset(entry for entry in read if isinstance(entry, str))
        return cls(tuple(entry for entry in read if not isinstance(entry, str)), names)

    def has_host(self, host: str) -> bool:
        """Return True if it names this host of a URL, or has the address that the host is."""
        literal = literal_address(host)
        if literal is None:
            return self.has_name(host_name(host))
        return all(self.has_address(meant) for meant in meanings(literal))

    def has_name(self, name: str) -> bool:
        """Return True if it has this name, or one of those above it."""
        if not self.names:
            return False
        parents = (name[at:] for at, letter in enumerate(name) if letter == ".")
        return name in self.names or any(parent in self.names for parent in parents)

    def has_address(self, address: IpAddress) -> bool:
        """Return True if one of its networks has this address."""
        return any(address in network for network in self.networks)


def read_entry(entry: str) -> IpNetwork | str:
    """Return an entry of an allow or deny list: a network, or a name (`*.example.org` as `.example.org`).

    Raises:
        ValueError: it is none of these.
    """
    if "/" in entry:
        network = ip_network(entry)  # raises with a text for the user
        if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
            return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
        return network
    literal = literal_address(entry)
    if literal is not None:
        return ip_network(meanings(literal)[0])
    name = host_name(entry.removeprefix("*."))
    if not _NAME.match(name):
        raise ValueError(f"{entry!r} is neither an address, nor a network such as 10.0.0.0/8, nor a host name")
    return f".{name}" if entry.startswith("*.") else name


def host_name(host: str) -> str:
    """Return a host's name in the form for comparisons: lower case, in its ASCII spelling, without a last dot."""
    with suppress(UnicodeError):  # a part of it is too long or empty, so it cannot be looked up either
        host = host.encode("idna").decode()
    return host.lower().removesuffix(".")


def literal_address(host: str) -> IpAddress | None:
    """Return the address that a URL's host is, in any spelling of `getaddrinfo`: `127.1`, `0x7f000001`, `::1`."""
    if ":" in host:
        try:
            return _parse(host)
        except ValueError:
            return None
    try:
        parts = host.encode("idna").decode().lower().split(".")
    except UnicodeError:
        return None
    if len(parts) > 4 or not all(_NUMBER.match(part) for part in parts):
        return None
    # As in inet_aton(3), the last number fills the bytes that are left.
    *leading, last = (int(part, 16 if part.startswith("0x") else 8 if part.startswith("0") else 10) for part in parts)
    if any(number > 255 for number in leading) or last >= 256 ** (4 - len(leading)):
        return None
    return IPv4Address(sum(number << (24 - 8 * place) for place, number in enumerate(leading)) + last)


def meanings(address: IpAddress) -> tuple[IpAddress, ...]:
    """Return the addresses that a connection to this one may reach: itself, and the IPv4 address inside it."""
    if isinstance(address, IPv4Address):
        return (address,)
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _MAPPED:
        return (low,)
    if address in _6TO4:
        return (address, IPv4Address(int(address) >> 80 & 0xFFFFFFFF))
    if any(address in network for network in _ENDING_IN_IPV4) and int(address) > 1:
        return (address, low)
    return (address,)


def _parse(address: str) -> IpAddress:
    return ip_address(address.partition("%")[0])  # a zone says which interface, not which address


def _is_plain(host: str) -> bool:
    try:
        _parse(host)
    except ValueError:
        return False
    return True
