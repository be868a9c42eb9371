"""Every setting, as one table: those that belong to no door, and those that the doors list.

The environment wins over the file, the file over the defaults (which stand in the policies).
`meanings` says what each setting means, and `docs/reference/configuration.md` is generated from both.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from toril.config.redis_address import acknowledge, no_redis, redis_address, sentinels
from toril.config.tokens import grants
from toril.core.http.headers import is_header_name
from toril.core.redaction import Redaction
from toril.core.settings.setting import Setting
from toril.core.settings.values import (
    boolean,
    choice,
    duration,
    integer,
    secret_text,
    text,
    texts,
    unless_empty,
    written_text,
)
from toril.delivery.settings import delivery_settings
from toril.http_client.egress import read_entry
from toril.http_client.outbound_settings import ReadSecret, host_routes, no_files
from toril.proxy.settings import PROXY_SETTINGS, proxy_settings

_PAGE_PATH = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)+\Z")
_ORIGIN = re.compile(r"https?://[^/?#@\s]+\Z")


def tokens(value: Any) -> tuple[str, ...]:
    """Return a list of tokens, also of one text with commas between them. They are never repeated in an error."""
    parts = texts(value)
    if not all(part.isascii() and part.isprintable() for part in parts):
        raise ValueError("a token may hold visible ASCII characters only")
    return tuple(part for part in parts if part)


def origins(value: Any) -> tuple[str, ...]:
    """Return origins of web pages, of a list or of one text with commas between them; `*` is all."""
    found = tuple(origin for part in texts(value) if (origin := part.strip()))
    for origin in found:
        if origin != "*" and not _ORIGIN.match(origin):
            raise ValueError(f"{origin!r} is no origin such as https://app.example, nor *")
    return found


def header_names(value: Any) -> tuple[str, ...]:
    """Return names of headers, of a list or of one text with commas between them."""
    found = tuple(name for part in texts(value) if (name := part.strip()))
    for name in found:
        if not (name.isascii() and is_header_name(name.encode())):
            raise ValueError(f"{name!r} is no name of a header")
    return found


def redacted_paths(value: Any) -> tuple[str, ...]:
    """Return paths of what is hidden, of a list or of one text with commas between them."""
    paths = tuple(path for part in texts(value) if (path := part.strip()))
    Redaction(paths)
    return paths


def page_path(value: Any) -> str:
    """Return a path of one or more plain segments, without a slash at its end."""
    path = text(value).rstrip("/")
    if not _PAGE_PATH.match(path):
        raise ValueError(f"{value!r} is no path such as /dashboard: letters, digits, dots, hyphens and underscores")
    return path


def hosts_and_networks(value: Any) -> tuple[str, ...]:
    """Return a list of addresses, networks and host names, also of one text with commas between them."""
    entries = tuple(entry for part in texts(value) if (entry := part.strip()))
    for entry in entries:
        read_entry(entry)
    return entries


def payload_store(value: Any) -> str:
    """Return where large bodies go: a bucket or a folder."""
    url = text(value)
    parts = urlsplit(url)
    bucket = parts.scheme == "s3" and parts.netloc and not parts.query and not parts.fragment
    folder = parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/")
    if parts.username is not None or not (bucket or folder):
        # The value is not repeated: it may hold a key.
        raise ValueError("it must be s3://bucket/prefix or file:///folder")
    return url


def http_url(value: Any) -> str:
    """Return the URL of a service."""
    url = text(value)
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise ValueError("it must be an http:// or https:// URL without user and password")
    return url


GENERAL_SETTINGS = (
    Setting("host", "host", text, ("TORIL_HOST",)),
    Setting("port", "port", integer(0, 65535), ("PORT",)),
    Setting("auth_tokens", "gateway.auth_tokens", tokens, ("AUTH_TOKENS",), at_once=True),
    Setting("tokens", "gateway.tokens", grants, at_once=True),
    Setting("redis", "without_redis", no_redis, ("TORIL_REDIS",)),
    Setting("redis.url", "redis", redis_address, ("REDIS_URL", "REDIS_URI")),
    Setting("redis.host", "redis.host", text, ("REDIS_HOST",)),
    Setting("redis.port", "redis.port", integer(1, 65535), ("REDIS_PORT",)),
    Setting("redis.username", "redis.username", written_text, ("REDIS_USERNAME",)),
    Setting("redis.password", "redis.password", unless_empty(secret_text), ("REDIS_PASSWORD",)),
    Setting("redis.db", "redis.db", unless_empty(integer(0, 2**31)), ("REDIS_DB",)),
    Setting("redis.tls", "redis.tls", boolean, ("REDIS_TLS",)),
    Setting("redis.ca_file", "redis.ca_file", text, ("REDIS_CA_FILE",)),
    Setting("redis.cert_file", "redis.cert_file", text, ("REDIS_CERT_FILE",)),
    Setting("redis.key_file", "redis.key_file", text, ("REDIS_KEY_FILE",)),
    Setting("redis.cluster", "redis.cluster", boolean, ("REDIS_CLUSTER",)),
    Setting("redis.sentinels", "redis.sentinels", unless_empty(sentinels), ("REDIS_SENTINELS",)),
    Setting("redis.sentinel_master", "redis.sentinel_master", text, ("REDIS_SENTINEL_MASTER",)),
    Setting("redis.sentinel_username", "redis.sentinel_username", written_text, ("REDIS_SENTINEL_USERNAME",)),
    Setting(
        "redis.sentinel_password", "redis.sentinel_password", unless_empty(secret_text), ("REDIS_SENTINEL_PASSWORD",)
    ),
    Setting("redis.sentinel_tls", "redis.sentinel_tls", boolean, ("REDIS_SENTINEL_TLS",)),
    Setting("redis.command_timeout", "store.command_timeout_s", duration(), ("TORIL_REDIS_COMMAND_TIMEOUT",)),
    Setting("redis.connect_timeout", "store.connect_timeout_s", duration(), ("TORIL_REDIS_CONNECT_TIMEOUT",)),
    Setting("acknowledge", "store.acknowledge", acknowledge, ("TORIL_ACKNOWLEDGE",)),
    Setting(
        "acknowledge_timeout", "store.acknowledge_timeout_s", duration(0.001, 60.0), ("TORIL_ACKNOWLEDGE_TIMEOUT",)
    ),
    Setting("queue_prefix", "store.queue_prefix", text, ("QUEUE_PREFIX",)),
    Setting("queue_cache_size", "store.queue_cache_size", integer(1), ("QUEUE_CACHE_SIZE",)),
    Setting("min_queue_name_length", "gateway.min_queue_name_length", integer(1), ("MIN_QUEUE_NAME_LENGTH",)),
    Setting("max_queue_name_length", "gateway.max_queue_name_length", integer(1), ("MAX_QUEUE_NAME_LENGTH",)),
    Setting("max_body_bytes", "gateway.max_body_bytes", integer(1), ("TORIL_MAX_BODY_BYTES",)),
    Setting("max_head_bytes", "connections.max_head_bytes", integer(1024, 2**24), ("TORIL_MAX_HEAD_BYTES",)),
    Setting("head_timeout", "connections.head_timeout_s", duration(0.1), ("TORIL_HEAD_TIMEOUT",)),
    Setting("body_timeout", "connections.body_timeout_s", duration(0.1), ("TORIL_BODY_TIMEOUT",)),
    Setting("idle_timeout", "connections.idle_timeout_s", duration(0.1), ("TORIL_IDLE_TIMEOUT",)),
    Setting("cors.origins", "cors.origins", origins, ("TORIL_CORS_ORIGINS",)),
    Setting("cors.headers", "cors.headers", header_names, ("TORIL_CORS_HEADERS",)),
    Setting("redact", "gateway.redact", redacted_paths, ("TORIL_REDACT",)),
    Setting("dashboard.enabled", "dashboard.enabled", boolean, ("TORIL_DASHBOARD_ENABLED",)),
    Setting("dashboard.path", "dashboard.path", page_path, ("TORIL_DASHBOARD_PATH",)),
    Setting("mcp.enabled", "mcp.enabled", boolean, ("TORIL_MCP_ENABLED",)),
    Setting("shutdown.delay", "shutdown.delay_s", duration(0.0), ("TORIL_SHUTDOWN_DELAY",)),
    Setting("workers.hash", "store.worker_hash", text, ("WORKER_METADATA_KEY",)),
    Setting("workers.stream", "store.worker_stream", text, ("WORKER_METADATA_STREAM",)),
    Setting(
        "workers.stream_max_len",
        "store.worker_stream_max_len",
        integer(1),
        ("MAX_LEN_WORKER_METADATA_STREAM",),
    ),
    Setting("engine.lock", "engine.lock_s", duration(0.1), ("TORIL_LOCK",)),
    Setting("engine.stalled_interval", "engine.stalled_interval_s", duration(0.1), ("TORIL_STALLED_INTERVAL",)),
    Setting("engine.poll_interval", "engine.poll_interval_s", duration(0.1), ("TORIL_POLL_INTERVAL",)),
    Setting("engine.grace", "engine.grace_s", duration(0.0), ("TORIL_GRACE",)),
    Setting("engine.connect_timeout", "engine.connect_timeout_s", duration(), ("TORIL_CONNECT_TIMEOUT",)),
    Setting("engine.max_response_bytes", "engine.max_response_bytes", integer(1), ("TORIL_MAX_RESPONSE_BYTES",)),
    Setting(
        "engine.max_response_head_bytes",
        "engine.max_response_head_bytes",
        integer(1024),
        ("TORIL_MAX_RESPONSE_HEAD_BYTES",),
    ),
    Setting("engine.marker_shard", "store.marker_shard", integer(1, 10_000), ("TORIL_MARKER_SHARD",)),
    Setting(
        "engine.presence_connections",
        "store.presence_connections",
        integer(0, 10_000),
        ("TORIL_PRESENCE_CONNECTIONS",),
    ),
    Setting("engine.presence_for", "store.presence_for_s", duration(), ("TORIL_PRESENCE_FOR",)),
    Setting("egress.policy", "egress.policy", choice("internal", "public"), ("TORIL_EGRESS_POLICY",)),
    Setting("egress.allow", "egress.allow", hosts_and_networks, ("TORIL_EGRESS_ALLOW",)),
    Setting("egress.deny", "egress.deny", hosts_and_networks, ("TORIL_EGRESS_DENY",)),
    Setting("payloads.url", "payloads.url", payload_store, ("TORIL_PAYLOADS_URL",), at_once=True),
    Setting("payloads.threshold", "payloads.threshold_bytes", integer(0), ("TORIL_PAYLOADS_THRESHOLD",), at_once=True),
    Setting("payloads.redis_max", "payloads.redis_max_bytes", integer(0), ("TORIL_PAYLOADS_REDIS_MAX",), at_once=True),
    Setting("payloads.endpoint", "payloads.endpoint", http_url, ("TORIL_PAYLOADS_ENDPOINT",), at_once=True),
    Setting("payloads.region", "payloads.region", text, ("TORIL_PAYLOADS_REGION",), at_once=True),
    Setting("metrics.max_queues", "metrics.max_queues", integer(1, 10_000), ("TORIL_METRICS_MAX_QUEUES",)),
    Setting("log.level", "log.level", choice("debug", "info", "warning", "error"), ("TORIL_LOG_LEVEL",), at_once=True),
    Setting("log.format", "log.format", choice("auto", "human", "json"), ("TORIL_LOG_FORMAT",)),
)


def _all_settings(read_secret_file: ReadSecret, proxy: tuple[Setting, ...]) -> tuple[Setting, ...]:
    read = partial(host_routes, read_secret_file=read_secret_file)
    routes = Setting("workers.outbound", "worker_routes", read)
    return (*GENERAL_SETTINGS, routes, *delivery_settings(read_secret_file), *proxy)


def all_settings(read_secret_file: ReadSecret) -> tuple[Setting, ...]:
    """Return every setting; `read_secret_file` reads the files that destinations name."""
    return _all_settings(read_secret_file, proxy_settings(read_secret_file))


SETTINGS = _all_settings(no_files, PROXY_SETTINGS)
"""Every setting, for tables and comparisons that read no values."""
