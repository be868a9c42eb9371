"""Loopback ports for servers that must come back on the same port."""

import os
import secrets
import socket

_FIRST, _COUNT = 20_000, 12_000
_given: set[int] = set()


def free_port() -> int:
    """A port without a server, below the range the kernel takes client ports from, and never the same one again.

    A port of that range could be taken, or even connected to itself, by a client that keeps trying to
    reach a server which is down for a moment. Nor may another server have it then: processes that run tests side by
    side (pytest-xdist) each have their share of the ports.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % processes
    for _ in range(200):
        port = _FIRST + process + processes * secrets.randbelow(_COUNT // processes)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise RuntimeError(f"no free port between {_FIRST} and {_FIRST + _COUNT}")
