"""The mount point of this application: what to cut off a request's path, and what to put before a path for a client.

Up to three things stand before a path: what a proxy before toril has cut off (`X-Forwarded-Prefix`), what the
application is mounted at (ASGI's `root_path`), and `apiPath`. No URL goes to a client without passing `url_path`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send

from toril.core.http.paths import has_dot_segments
from toril.web.raw_target import TARGET, raw_path, raw_target

FORWARDED_PREFIX = b"x-forwarded-prefix"
_MOUNT = "toril.mount"
_BELOW = "toril.below"
_PATH = "toril.path"
_PREFIX = re.compile(rb"(?:/(?:[A-Za-z0-9._~!$&'()*+;=:@-]|%[0-9A-Fa-f]{2})+)+\Z")


class Mounting:
    """Middleware that records where the application is mounted, and the path of a request below that."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one ASGI connection."""
        if scope.get("root_path") and scope["type"] != "lifespan":
            _note_mount(scope)
        return self.app(scope, receive, send)


def _note_mount(scope: Scope) -> None:
    mount = quote(scope["root_path"].rstrip("/"), safe="/%:@!$&'()*+,;=-._~").encode()
    scope[_MOUNT] = mount
    scope[_PATH] = _below(mount, raw_path(scope))
    scope[TARGET] = _below(mount, raw_target(scope))


def _below(mount: bytes, path: bytes) -> bytes:
    """Return a path without the mount point; some servers have cut it off already."""
    if path.startswith(mount):
        rest = path[len(mount) :]
        if rest[:1] in (b"", b"/", b"?"):
            return rest if rest[:1] == b"/" else b"/" + rest
    return path


def route_path(scope: Scope) -> bytes:
    """Return the raw path to match routes with: below the mount point and `apiPath`."""
    path: bytes | None = scope.get(_PATH)
    return raw_path(scope) if path is None else path


def go_below(scope: Scope, below: bytes, path: bytes) -> None:
    """Set the path that the routes of a mounted application see, and that clients' paths begin with."""
    scope[_BELOW] = below
    scope[_PATH] = path


def url_path(scope: Scope, path: bytes) -> bytes:
    """Return the path by which a client reaches this path of the routes that serve the request."""
    below: bytes = scope.get(_BELOW, b"")
    return front(scope) + below + path


def front(scope: Scope) -> bytes:
    """Return the prefix of all of toril's paths, as this client knows it, without a slash at its end."""
    mount: bytes = scope.get(_MOUNT, b"")
    prefix = _forwarded_prefix(scope)
    # A server that takes the header itself makes it a part of the mount.
    return mount if mount == prefix or mount.startswith(prefix + b"/") else prefix + mount


def _forwarded_prefix(scope: Scope) -> bytes:
    """Return the prefix that a reverse proxy says it has cut off; empty if it is not a plain path.

    Like `X-Forwarded-For` it is believed from any sender. It changes only the paths in the answer to the same request,
    and since it cannot name a host, it leads to no other server.
    """
    given = [value for name, value in scope["headers"] if name == FORWARDED_PREFIX]
    if len(given) != 1:
        return b""
    prefix: bytes = given[0].removesuffix(b"/")
    return prefix if _PREFIX.match(prefix) and not has_dot_segments(prefix) else b""
