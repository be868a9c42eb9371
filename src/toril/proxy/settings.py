"""The settings of the async proxy, as one table: proxq's keys, unchanged, and toril's own beside them.

As in proxq, a value that is zero or empty is the default. `docs/reference/proxy.md` is generated from
this table and `toril.config.meanings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from msgspec.structs import replace

from toril.core.http.signing import MAX_SECRETS, Secret, read_secret
from toril.core.integers import whole_number
from toril.core.settings.setting import Setting
from toril.core.settings.values import boolean, choice, duration, integer, unless_empty, written_text
from toril.http_client.outbound_settings import ReadSecret, host_routes, no_files
from toril.proxy.rules.upstream import DEFAULT_API_PATH, ProxyPolicy
from toril.proxy.upstream_settings import or_default, path, upstreams

OWN_SEGMENTS = frozenset(
    {
        "audit", "connections", "dashboard", "docs", "doctor", "enqueue", "events", "flows", "health", "jobs", "mcp",
        "metrics", "openapi.json", "proxied", "queues", "ready", "reload", "schedulers", "stats", "targets",
        "upstreams", "whoami", "workers", "ws",
    }
)  # fmt: skip
"""What the paths of toril's own API begin with; a test compares them with the routes."""


def address(value: Any) -> tuple[str, int]:
    """Return a host and a port: `127.0.0.1:8080`, `[::1]:8080`; without a host (`:8080`) it is every address."""
    host, colon, digits = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    port = whole_number(digits, most=65535)
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or port is None or (":" in host and not bracketed):
        raise ValueError(f"{value!r} is not an address such as 127.0.0.1:8080")
    return host, port


def path_or_off(value: Any) -> str | None:
    """Return a path, or None for `off`."""
    return None if value is False or value == "off" else path(value)


def secrets(value: Any) -> tuple[Secret, ...]:
    """Return one or two secrets, which are never repeated in an error."""
    if not isinstance(value, list) or len(value) > MAX_SECRETS:
        raise ValueError(f"it must be a list of at most {MAX_SECRETS} secrets")
    try:
        return tuple(read_secret(part) for part in value)
    except ValueError as exc:
        raise ValueError(f"each {exc}") from exc


def proxy_settings(read_secret_file: ReadSecret) -> tuple[Setting, ...]:
    """Return the settings of this door.

    Args:
        read_secret_file: reads the files that upstreams name.
    """
    read = {
        "upstreams": partial(upstreams, read_secret_file=read_secret_file),
        "callback.outbound": unless_empty(partial(host_routes, read_secret_file=read_secret_file)),
    }
    return tuple(replace(one, parse=read.get(one.key, one.parse)) for one in PROXY_SETTINGS)


PROXY_SETTINGS = (
    Setting("listenAddress", "listen_address", or_default(address)),
    Setting("redis.addr", "redis_address", or_default(address)),
    Setting("queue", "proxy.queue", or_default(written_text)),
    Setting("concurrency", "proxy.concurrency", or_default(integer(1, 10_000))),
    Setting("jobsPath", "proxy.jobs_path", or_default(path)),
    Setting("taskRetention", "proxy.retention_s", or_default(duration(0.0))),
    Setting("cache.mode", "proxy.cache.mode", or_default(choice("none", "memory", "redis"))),
    Setting("cache.ttl", "proxy.cache.ttl_s", or_default(duration(0.0))),
    Setting("cache.maxEntries", "proxy.cache.max_entries", or_default(integer(1))),
    Setting("cache.redisKeyPrefix", "proxy.cache.redis_key_prefix", or_default(written_text)),
    Setting("upstreams", "proxy.upstreams", upstreams),
    Setting("apiPath", "proxy.api_path", unless_empty(path_or_off)),
    Setting("ownerOnly", "proxy.owner_only", unless_empty(boolean)),
    Setting("callback.secrets", "proxy.callback.secrets", unless_empty(secrets)),
    Setting("callback.timeout", "proxy.callback.timeout_s", or_default(duration())),
    Setting("callback.attempts", "proxy.callback.attempts", or_default(integer(1, 100))),
    Setting(
        "callback.outbound", "proxy.callback.routes", unless_empty(partial(host_routes, read_secret_file=no_files))
    ),
)


def with_api_path(policy: ProxyPolicy, given: Mapping[str, Any]) -> ProxyPolicy:
    """Return the policy with the API's path where the operator has named none: off if an upstream takes every path."""
    if "apiPath" in given or not policy.upstreams:
        return policy
    has_all = any(upstream.prefix == "/" for upstream in policy.upstreams)
    return msgspec.structs.replace(policy, api_path=None if has_all else DEFAULT_API_PATH)


def collisions(policy: ProxyPolicy) -> list[str]:
    """Return what is wrong with paths that collide."""
    faults = []
    prefixes = [upstream.prefix for upstream in policy.upstreams]
    if "/" in prefixes and len(prefixes) > 1:
        faults.append("upstreams: the prefix / takes every path, so it must be the only upstream")
    else:
        for number, one in enumerate(prefixes):
            for other in prefixes[number + 1 :]:
                if one == other:
                    faults.append(f"upstreams: the prefix {one} is there twice: {one} and {other}")
                elif _nested(one, other):
                    faults.append(f"upstreams: the prefixes {one} and {other} are nested")
    if policy.api_path == "/":
        return faults + _collisions_at_root(policy, prefixes)
    reserved = [("jobsPath", policy.jobs_path)]
    reserved.append(("apiPath", policy.ops_path) if policy.api_path else ("the path of /health", policy.ops_path))
    if _nested(policy.jobs_path, policy.ops_path):
        faults.append(f"jobsPath {policy.jobs_path} collides with {reserved[1][0]} {policy.ops_path}")
    for name, reserved_path in reserved:
        faults.extend(
            f"upstreams: the prefix {one} collides with {name} {reserved_path}"
            for one in prefixes
            if one != "/" and _nested(one, reserved_path)
        )
    return faults


def _collisions_at_root(policy: ProxyPolicy, prefixes: list[str]) -> list[str]:
    """Return the paths that are toril's own where its API is at `/`, beside upstreams."""
    named = [("jobsPath", policy.jobs_path), *(("upstreams: the prefix", prefix) for prefix in prefixes)]
    faults = [
        f"{name} {path} is a path of toril's own API, which apiPath puts at /"
        for name, path in named
        if path == "/" or path.split("/")[1] in OWN_SEGMENTS
    ]
    faults.extend(
        f"upstreams: the prefix {one} collides with jobsPath {policy.jobs_path}"
        for one in prefixes
        if one != "/" and _nested(one, policy.jobs_path)
    )
    return faults


def _nested(one: str, other: str) -> bool:
    return one == other or one.startswith(other.rstrip("/") + "/") or other.startswith(one.rstrip("/") + "/")
