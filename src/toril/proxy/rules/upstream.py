"""An upstream of the async proxy, and the settings of all of them.

Durations are seconds (`_s`), sizes are bytes (`_bytes`). The defaults are proxq's (wire/proxq.md).
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import Struct

from toril.core.group_limits import GroupDefault, GroupRate
from toril.core.http.outbound_policy import DIRECT, HostRoute, OutboundPolicy
from toril.core.http.signing import Secret
from toril.proxy.rules.grouping import GroupBy

DEFAULT_KEY_EXCLUDES = frozenset(
    {b"x-request-id", b"x-forwarded-for", b"x-real-ip", b"x-forwarded-proto", b"x-forwarded-host"}
)
"""The default of the headers that are no part of a cache key: they differ between equal requests."""


class PathFilter(Struct, frozen=True, kw_only=True):
    """Which paths go past the queue: those that match (`blacklist`), or those that do not (`whitelist`); none where
    there are no patterns.

    A pattern is searched for anywhere in the path as the client sent it, percent-decoded, with its prefix and without
    its query.
    """

    mode: Literal["blacklist", "whitelist"] = "blacklist"
    patterns: tuple[re.Pattern[str], ...] = ()


def raw_path(path: str) -> bytes:
    """Return a configured path as it is in requests: percent-encoded if not ASCII, and without a slash at its end."""
    return quote(path.rstrip("/"), safe="/%:@!$&'()*+,;=-._~").encode()


class Upstream(Struct, frozen=True, kw_only=True):
    """A backend behind a path prefix.

    `origin` (`http://api:3000`), `host` (`api:3000`, what `Host` says) and `base_path` (`/bucket/data`, or nothing)
    are the parts of `url`. A `direct_threshold_bytes` of None lets no body be too large for the queue. Without
    `group_by`, requests have no group.
    """

    prefix: str
    url: str
    timeout_s: float = 300.0
    max_retries: int = 0
    retry_delay_s: float = 0.0
    max_body_bytes: int = 10 * 1024 * 1024
    direct_threshold_bytes: int | None = 10 * 1024 * 1024
    direct_mode: Literal["proxy", "redirect"] = "proxy"
    cache_key_excludes: frozenset[bytes] = DEFAULT_KEY_EXCLUDES
    path_filter: PathFilter = PathFilter()
    retry_on: frozenset[int] = frozenset()
    group_by: GroupBy | None = None
    group_concurrency: int | None = None
    group_limit: GroupRate | None = None
    outbound: OutboundPolicy = DIRECT
    origin: str = ""
    host: bytes = b""
    base_path: bytes = b""
    raw_prefix: bytes = b""

    def __post_init__(self) -> None:
        """Split the URL once."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        for name, value in (
            ("origin", f"{parts.scheme}://{host}"),
            ("host", host.encode("ascii" if host.isascii() else "idna")),
            ("base_path", raw_path(parts.path)),
            ("raw_prefix", raw_path(self.prefix)),
        ):
            msgspec.structs.force_setattr(self, name, value)

    @property
    def group(self) -> GroupDefault | None:
        """The limits of each group that has none itself; None without a limit."""
        if self.group_concurrency is None and self.group_limit is None:
            return None
        return GroupDefault(self.group_concurrency, self.group_limit)

    def forwarded(self, target: bytes) -> bytes:
        """Return the request target for the upstream; `target` is without the prefix."""
        return self.base_path + target


class CachePolicy(Struct, frozen=True, kw_only=True):
    """Where 2xx answers are kept for equal requests, and for how long."""

    mode: Literal["none", "memory", "redis"] = "none"
    ttl_s: float = 300.0
    max_entries: int = 10_000
    redis_key_prefix: str = "proxq:"


class CallbackPolicy(Struct, frozen=True, kw_only=True):
    """Callbacks of ended jobs. Without secrets, which sign them, there are none.

    `routes` are the ways to their hosts.
    """

    secrets: tuple[Secret, ...] = ()
    timeout_s: float = 10.0
    attempts: int = 8
    routes: tuple[HostRoute, ...] = ()


class ProxyPolicy(Struct, frozen=True, kw_only=True):
    """The async proxy. Without upstreams there is none.

    `api_path` is where the queues API is: None takes it away. With `owner_only`, only who sends the same
    `Authorization` as the submission sees a job.
    """

    upstreams: tuple[Upstream, ...] = ()
    queue: str = "default"
    concurrency: int = 10
    jobs_path: str = "/__jobs"
    retention_s: float = 3600.0
    api_path: str | None = None
    owner_only: bool = False
    cache: CachePolicy = CachePolicy()
    callback: CallbackPolicy = CallbackPolicy()

    @property
    def ops_path(self) -> str:
        """Return the path below which `/health`, `/ready` and `/metrics` are, with or without the queues API."""
        return self.api_path or DEFAULT_API_PATH


DEFAULT_API_PATH = "/__toril"


def queue_name(queue: str, prefix: str) -> str:
    """Return the BullMQ queue of an upstream: `default/api` for `default` and `/api`.

    Two upstreams never share one, and it holds no `:`, which BullMQ puts between the parts of its keys.
    """
    return quote(queue, safe=" {}!@$&'()*+,;=") + quote(prefix, safe="/{}!@$&'()*+,;=")


def callback_queue(queue: str) -> str:
    """Return the BullMQ queue of callbacks. It is no upstream's: those hold a slash."""
    return quote(queue, safe=" {}!@$&'()*+,;=") + ".callbacks"
