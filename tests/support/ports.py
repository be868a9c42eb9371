"""Loopback ports for servers that must come back on the same port."""

import secrets
import socket


def free_port() -> int:
    """A port nobody listens on, below the range the kernel takes client ports from.

    A port of that range could be taken, or even connected to itself, by a client that keeps trying to
    reach a server which is down for a moment.
    """
    for _ in range(200):
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port between 20000 and 32000")
