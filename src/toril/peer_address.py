"""Addresses of connections as their clients know them: a socket for both families has IPv4 addresses as IPv6 ones."""

from __future__ import annotations

from typing import TypeVar

_MAPPED = "::ffff:"
"""What stands before an IPv4 address there (RFC 4291 2.5.5.2)."""

_Port = TypeVar("_Port", int, int | None)


def unmapped(address: tuple[str, _Port] | None) -> tuple[str, _Port] | None:
    """Return a host and its port, the host as the IPv4 address that it is."""
    if address is None or not address[0].startswith(_MAPPED):
        return address
    return address[0].removeprefix(_MAPPED), address[1]
