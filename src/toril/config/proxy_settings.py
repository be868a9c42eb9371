"""The settings of the async proxy, as one table: proxq's keys, unchanged, and toril's own beside them.

As in proxq, a value that is zero or empty is the default. `docs/proxy.md` lists this table; a test compares the two.
"""

from __future__ import annotations

from typing import Any

from toril.config.settings import DEFAULT, Parse, Setting, boolean, choice, duration, integer, text, unless_empty
from toril.config.upstreams import duration_s, is_zero, prefix, upstreams
from toril.core.signing import MAX_SECRETS, Secret, read_secret


def or_default(parse: Parse) -> Parse:
    """As proxq reads its file: what is zero or empty is the default."""

    def parse_or_default(value: Any) -> Any:
        if is_zero(value):
            return DEFAULT
        parsed = parse(value)
        return DEFAULT if is_zero(parsed) else parsed

    return parse_or_default


def address(value: Any) -> tuple[str, int]:
    """A host and a port, `127.0.0.1:8080`, `[::1]:8080`; without a host all of them (`:8080`)."""
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not (colon and port.isascii() and port.isdigit() and int(port) <= 65535) or (":" in host and not bracketed):
        raise ValueError(f"{value!r} is not an address such as 127.0.0.1:8080")
    return host, int(port)


def path_or_off(value: Any) -> str | None:
    """A path below which something is, or `off`."""
    return None if value is False or value == "off" else prefix(value)


def secrets(value: Any) -> tuple[Secret, ...]:
    """One or two secrets, which are never repeated in an error."""
    if not isinstance(value, list) or len(value) > MAX_SECRETS:
        raise ValueError(f"it must be a list of at most {MAX_SECRETS} secrets")
    try:
        return tuple(read_secret(part) for part in value)
    except ValueError as exc:
        raise ValueError(f"each {exc}") from exc


PROXY_SETTINGS = (
    Setting("listenAddress", "listen_address", or_default(address)),
    Setting("redis.addr", "redis_address", or_default(address)),
    Setting("queue", "proxy.queue", or_default(text)),
    Setting("concurrency", "proxy.concurrency", or_default(integer(1, 10_000))),
    Setting("jobsPath", "proxy.jobs_path", or_default(prefix)),
    Setting("taskRetention", "proxy.retention_s", or_default(duration_s)),
    Setting("cache.mode", "proxy.cache.mode", or_default(choice("none", "memory", "redis"))),
    Setting("cache.ttl", "proxy.cache.ttl_s", or_default(duration_s)),
    Setting("cache.maxEntries", "proxy.cache.max_entries", or_default(integer(1))),
    Setting("cache.redisKeyPrefix", "proxy.cache.redis_key_prefix", or_default(text)),
    Setting("upstreams", "proxy.upstreams", upstreams),
    Setting("apiPath", "proxy.api_path", unless_empty(path_or_off)),
    Setting("ownerOnly", "proxy.owner_only", unless_empty(boolean)),
    Setting("callback.secrets", "proxy.callback.secrets", unless_empty(secrets)),
    Setting("callback.timeout", "proxy.callback.timeout_s", or_default(duration())),
    Setting("callback.attempts", "proxy.callback.attempts", or_default(integer(1, 100))),
)
