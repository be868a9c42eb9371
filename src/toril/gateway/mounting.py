"""Where this application is, as its clients know it: what to cut off a request's path, and what to put before a path
that is given to a client.

Up to three things stand before a path: what a proxy before toril has cut off (`X-Forwarded-Prefix`), what the
application is mounted at (ASGI's `root_path`), and `apiPath`. No URL goes to a client without passing `url_path`.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from starlette.types import Scope

from toril.core.paths import has_dot_segments
from toril.gateway.exact import TARGET

FORWARDED_PREFIX = b"x-forwarded-prefix"
_MOUNT = "toril.mount"
_BELOW = "toril.below"
_PREFIX = re.compile(rb"(?:/(?:[A-Za-z0-9._~!$&'()*+;=:@-]|%[0-9A-Fa-f]{2})+)+\Z")


def mounted(scope: Scope) -> Scope:
    """Return a scope without the path that the application is mounted at (ASGI's `root_path`)."""
    root: str = scope.get("root_path", "")
    if not root:
        return scope
    mount = quote(root.rstrip("/"), safe="/%:@!$&'()*+,;=-._~").encode()
    inside = dict(scope)
    inside["root_path"] = ""
    inside[_MOUNT] = mount
    for name in ("raw_path", TARGET):
        # Some servers leave the mount out of the path.
        if mount and name in scope and scope[name][: len(mount)] == mount:
            rest = scope[name][len(mount) :]
            if rest[:1] in (b"", b"/", b"?"):
                inside[name] = rest if rest[:1] == b"/" else b"/" + rest
    inside["path"] = unquote(inside["raw_path"].decode("latin-1"))
    return inside


def moved(scope: Scope, below: bytes, path: bytes) -> Scope:
    """Return the scope that the application below a path of ours gets: it knows nothing of that path."""
    inside = dict(scope)
    inside["raw_path"] = path
    inside["path"] = unquote(path.decode("latin-1"))
    inside[_BELOW] = below
    inside.pop(TARGET, None)
    return inside


def url_path(scope: Scope, path: bytes) -> bytes:
    """Return what a client has to ask for to get to this path of the application that was given this scope."""
    below: bytes = scope.get(_BELOW, b"")
    return front(scope) + below + path


def front(scope: Scope) -> bytes:
    """Return what stands before every path of toril's, as this client knows it; no slash at its end."""
    mount: bytes = scope.get(_MOUNT, b"")
    prefix = _forwarded_prefix(scope)
    # A server that takes the header itself makes it a part of the mount.
    return mount if mount == prefix or mount.startswith(prefix + b"/") else prefix + mount


def _forwarded_prefix(scope: Scope) -> bytes:
    """Return what a proxy says it has cut off; nothing where that is not a plain path.

    Like `X-Forwarded-For` it is believed whoever sends it. It changes no more than the paths in the answer to the same
    request, and as it cannot name a host, it leads nobody to another server.
    """
    given = [value for name, value in scope["headers"] if name == FORWARDED_PREFIX]
    if len(given) != 1:
        return b""
    prefix: bytes = given[0].removesuffix(b"/")
    return prefix if _PREFIX.match(prefix) and not has_dot_segments(prefix) else b""
