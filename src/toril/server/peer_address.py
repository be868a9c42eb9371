"""Addresses of clients: a socket for both families shows an IPv4 address in the form of an IPv6 one."""

from __future__ import annotations

from typing import TypeVar

_MAPPED = "::ffff:"
"""The prefix of such an address (RFC 4291 2.5.5.2)."""

_Port = TypeVar("_Port", int, int | None)


def unmapped(address: tuple[str, _Port] | None) -> tuple[str, _Port] | None:
    """Return a host and its port, with the host as an IPv4 address where it is one."""
    if address is None or not address[0].startswith(_MAPPED):
        return address
    return address[0].removeprefix(_MAPPED), address[1]
