"""TCP keepalive for connections that may be silent for hours: event streams and tunnels."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

_PROBES = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


def detect_dead_peer(transport: asyncio.BaseTransport) -> None:
    """Let the kernel end this connection within a minute when the other machine is gone."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    with suppress(OSError):  # the connection is lost already, and its user will see that
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBES:
            if hasattr(socket, name):  # macOS has others
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
