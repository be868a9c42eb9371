"""Which upstream a request to the async proxy belongs to, and whether it is queued.

It works on the raw target as it came: nothing is normalized, and only path filters see it decoded.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from urllib.parse import unquote

from msgspec import Struct

from toril.core.http.headers import Header, is_websocket_upgrade
from toril.proxy.rules.upstream import PathFilter, Upstream


class Reason(enum.StrEnum):
    """Why a request bypasses the queue."""

    WEBSOCKET = "websocket"
    PATH = "path"
    CHUNKED = "chunked"
    LARGE = "large"


class Enqueue(Struct, frozen=True):
    """The request goes into the upstream's queue. `target` is the raw target without the prefix; it begins with `/`."""

    upstream: Upstream
    target: bytes


class Bypass(Struct, frozen=True):
    """The request bypasses the queue: it goes to the upstream directly, or by a redirect."""

    upstream: Upstream
    target: bytes
    reason: Reason


Match = Enqueue | Bypass


def stripped(prefix: bytes, target: bytes) -> bytes | None:
    """Return the target without a prefix; None if it has another one. The empty prefix is `/`; none ends with a slash.

    A path matches if it is the prefix, or goes on with a slash behind it. Query and percent-encoding stay as sent.
    """
    if not target.startswith(prefix):
        return None
    rest = target[len(prefix) :]
    if rest[:1] == b"/":
        return rest
    if prefix and (not rest or rest[:1] == b"?"):
        return b"/" + rest
    return None


def match(upstreams: Sequence[Upstream], target: bytes, headers: Sequence[Header]) -> Match | None:
    """Return where a request goes; None if no prefix matches.

    Args:
        upstreams: whose prefixes exclude each other, so their order does not matter.
        target: the request target as it came: path and query.
        headers: names in lower case.
    """
    for upstream in upstreams:
        rest = stripped(upstream.raw_prefix, target)
        if rest is not None:
            reason = bypass_reason(upstream, target, headers)
            return Enqueue(upstream, rest) if reason is None else Bypass(upstream, rest, reason)
    return None


def bypass_reason(upstream: Upstream, target: bytes, headers: Sequence[Header]) -> Reason | None:
    """Return why this request bypasses the queue; None if it does not."""
    given = dict(headers)
    if b"upgrade" in given and is_websocket_upgrade(headers):
        return Reason.WEBSOCKET
    if upstream.path_filter.patterns and passes_by(upstream.path_filter, target):
        return Reason.PATH
    if b"transfer-encoding" in given and _is_chunked(headers):
        return Reason.CHUNKED
    length, most = given.get(b"content-length"), upstream.direct_threshold_bytes
    if most is not None and length is not None and length.isdigit() and int(length) > most:
        return Reason.LARGE
    return None


def _is_chunked(headers: Sequence[Header]) -> bool:
    return any(name == b"transfer-encoding" and b"chunked" in value.lower() for name, value in headers)


def passes_by(path_filter: PathFilter, target: bytes) -> bool:
    """Return True if a filter lets this path bypass the queue. Without patterns no path does, in either mode."""
    if not path_filter.patterns:
        return False
    path = target.partition(b"?")[0].decode("latin-1")
    if "%" in path:
        path = unquote(path)
    is_listed = path_filter.mode == "blacklist"
    for pattern in path_filter.patterns:  # for every request, and `any` costs more
        if pattern.search(path):
            return is_listed
    return not is_listed
