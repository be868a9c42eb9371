"""What a request to the async proxy is: for which upstream, and whether it may wait in a queue.

Works on the raw target, as it came: nothing is decoded but for path filters, nothing is cleaned. Called by
`toril.gateway`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from urllib.parse import unquote

from msgspec import Struct

from toril.core.headers import Header, is_websocket_upgrade
from toril.core.upstream import PathFilter, Upstream


class Reason(enum.Enum):
    """Why a request does not wait in a queue."""

    WEBSOCKET = "websocket"
    PATH = "path"
    CHUNKED = "chunked"
    LARGE = "large"


class Enqueue(Struct, frozen=True):
    """Goes into the upstream's queue. `target` is the raw target without the prefix; it begins with `/`."""

    upstream: Upstream
    target: bytes


class Bypass(Struct, frozen=True):
    """Goes past the queue, to the upstream directly or by way of a redirect."""

    upstream: Upstream
    target: bytes
    reason: Reason


Match = Enqueue | Bypass


def stripped(prefix: bytes, target: bytes) -> bytes | None:
    """The target without a prefix (which has no slash at its end; nothing is the prefix `/`), or None.

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
    """Where a request goes; None where no prefix matches.

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
    """Why this request goes past the queue; None where it does not."""
    upgrade = chunked = False
    length = 0
    for name, value in headers:
        if name == b"content-length":
            length = int(value) if value.isdigit() else 0
        elif name == b"transfer-encoding":
            chunked = chunked or b"chunked" in value.lower()
        elif name == b"upgrade":
            upgrade = True
    if upgrade and is_websocket_upgrade(headers):
        return Reason.WEBSOCKET
    if passes_by(upstream.path_filter, target):
        return Reason.PATH
    if chunked:
        return Reason.CHUNKED
    if upstream.direct_threshold_bytes is not None and length > upstream.direct_threshold_bytes:
        return Reason.LARGE
    return None


def passes_by(path_filter: PathFilter, target: bytes) -> bool:
    """Whether a filter lets this path go past the queue. One without patterns, in either mode, lets none."""
    if not path_filter.patterns:
        return False
    path = target.partition(b"?")[0].decode("latin-1")
    if "%" in path:
        path = unquote(path)
    found = any(pattern.search(path) for pattern in path_filter.patterns)
    return found is (path_filter.mode == "blacklist")
