"""Every setting, as one table: its key in the configuration file, its environment variables, how it is read.

The environment wins over the file, the file over the defaults (which stand in `toril.core.policy`).
`docs/configuration.md` lists this table; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from toril.config.targets import targets
from toril.config.tokens import grants
from toril.core.durations import parse_duration_s
from toril.core.egress import read_entry

Parse = Callable[[Any], Any]


class _Default:
    """What a parser returns where the value stands for the default."""


DEFAULT = _Default()


def unless_empty(parse: Parse) -> Parse:
    """Return a parser to which a key that is left empty, or an empty text, is the default."""

    def parse_unless_empty(value: Any) -> Any:
        return DEFAULT if value is None or value == "" else parse(value)

    return parse_unless_empty


class Setting(Struct, frozen=True):
    """One setting. `target` is the section and field of `toril.core.policy.Settings`."""

    key: str
    target: str
    parse: Parse
    env: tuple[str, ...] = ()


def text(value: Any) -> str:
    """A string that says something."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a text")
    return value


def secret(value: Any) -> str:
    """A string that is never repeated in an error."""
    if not isinstance(value, str):
        raise ValueError("it must be a text")  # noqa: TRY004 - one kind of fault for the reader of the file
    return value


def integer(least: int, most: int = 2**53) -> Parse:
    """A whole number within bounds, also as text."""

    def parse(value: Any) -> int:
        try:
            number = int(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            bounds = f"from {least} to {most}" if most < 2**53 else f"of at least {least}"
            raise ValueError(f"{value!r} is not a whole number {bounds}")
        return number

    return parse


def duration(least_s: float = 0.001) -> Parse:
    """A duration in Go's syntax, in seconds."""

    def parse(value: Any) -> float:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a duration such as 30s, 1h30m or 500ms")  # noqa: TRY004
        seconds = parse_duration_s(value)
        if seconds < least_s:
            raise ValueError(f"{value!r} is shorter than {least_s:g}s")
        return seconds

    return parse


def boolean(value: Any) -> bool:
    """true or false, also as text."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"true", "false", "1", "0", ""}:
        return value.lower() in {"true", "1"}
    raise ValueError(f"{value!r} is neither true nor false")


def choice(*allowed: str) -> Parse:
    """One of a few words."""

    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"{value!r} is none of {', '.join(allowed)}")
        return str(value)

    return parse


def tokens(value: Any) -> tuple[str, ...]:
    """A list of tokens, or one text with commas between them. They are never repeated in an error."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError("it must be a list of texts")
    if not all(part.isascii() and part.isprintable() for part in parts):
        raise ValueError("a token may hold visible ASCII characters only")
    return tuple(part for part in parts if part)


def hosts_and_networks(value: Any) -> tuple[str, ...]:
    """A list of addresses, networks and host names, or one text with commas between them."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError("it must be a list of texts")
    entries = tuple(entry for part in parts if (entry := part.strip()))
    for entry in entries:
        read_entry(entry)
    return entries


def payload_store(value: Any) -> str:
    """Where large bodies go: a bucket or a folder."""
    url = text(value)
    parts = urlsplit(url)
    bucket = parts.scheme == "s3" and parts.netloc and not parts.query and not parts.fragment
    folder = parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path.startswith("/")
    if parts.username is not None or not (bucket or folder):
        # Not repeated: somebody may have put a key into it.
        raise ValueError("it must be s3://bucket/prefix or file:///folder")
    return url


def http_url(value: Any) -> str:
    """The address of a service."""
    url = text(value)
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise ValueError("it must be an http:// or https:// URL without user and password")
    return url


_HOST = re.compile(r"(\[[^]]*]|[^:[\]]*)(:\d+)?\Z")
"""A host with its port in libpq's URL, which may name several."""


def ledger(value: Any) -> str:
    """Where the ledger is. It may hold a password, so it is never repeated in an error."""
    if value is None:  # YAML has no text in `url: ~`, and nobody means "nowhere" by it
        value = ""
    if not isinstance(value, str):
        raise ValueError("it must be a text")  # noqa: TRY004 - as above
    scheme, _, rest = value.partition("://")
    if value == "none" or (scheme == "sqlite" and len(rest) > 1 and rest.startswith("/")):
        return value
    if scheme in {"postgresql", "postgres"} and rest:
        hosts = urlsplit(value).netloc.rpartition("@")[2]
        if not all(_HOST.match(host) for host in hosts.split(",")):
            raise ValueError("a port of it is no number; is every / ? # and @ in the password percent-encoded?")
        return value
    raise ValueError("it is neither a postgresql:// URL, nor sqlite:///path/of/a/file, nor none")


SETTINGS = (
    Setting("host", "host", text, ("TORIL_HOST",)),
    Setting("port", "port", integer(0, 65535), ("PORT",)),
    Setting("auth_tokens", "gateway.auth_tokens", tokens, ("AUTH_TOKENS",)),
    Setting("tokens", "gateway.tokens", grants),
    Setting("redis.url", "redis", secret, ("REDIS_URL", "REDIS_URI")),
    Setting("redis.host", "redis.host", text, ("REDIS_HOST",)),
    Setting("redis.port", "redis.port", integer(1, 65535), ("REDIS_PORT",)),
    Setting("redis.username", "redis.username", text, ("REDIS_USERNAME",)),
    Setting("redis.password", "redis.password", unless_empty(secret), ("REDIS_PASSWORD",)),
    Setting("redis.db", "redis.db", unless_empty(integer(0, 2**31)), ("REDIS_DB",)),
    Setting("redis.tls", "redis.tls", boolean, ("REDIS_TLS",)),
    Setting("redis.ca_file", "redis.ca_file", text, ("REDIS_CA_FILE",)),
    Setting("redis.cert_file", "redis.cert_file", text, ("REDIS_CERT_FILE",)),
    Setting("redis.key_file", "redis.key_file", text, ("REDIS_KEY_FILE",)),
    Setting("redis.cluster", "redis.cluster", boolean, ("REDIS_CLUSTER",)),
    Setting("redis.command_timeout", "store.command_timeout_s", duration(), ("TORIL_REDIS_COMMAND_TIMEOUT",)),
    Setting("redis.connect_timeout", "store.connect_timeout_s", duration(), ("TORIL_REDIS_CONNECT_TIMEOUT",)),
    Setting("queue_prefix", "store.queue_prefix", text, ("QUEUE_PREFIX",)),
    Setting("queue_cache_size", "store.queue_cache_size", integer(1), ("QUEUE_CACHE_SIZE",)),
    Setting("min_queue_name_length", "gateway.min_queue_name_length", integer(1), ("MIN_QUEUE_NAME_LENGTH",)),
    Setting("max_queue_name_length", "gateway.max_queue_name_length", integer(1), ("MAX_QUEUE_NAME_LENGTH",)),
    Setting("max_body_bytes", "gateway.max_body_bytes", integer(1), ("TORIL_MAX_BODY_BYTES",)),
    Setting("max_head_bytes", "connections.max_head_bytes", integer(1024, 2**24), ("TORIL_MAX_HEAD_BYTES",)),
    Setting("head_timeout", "connections.head_timeout_s", duration(0.1), ("TORIL_HEAD_TIMEOUT",)),
    Setting("body_timeout", "connections.body_timeout_s", duration(0.1), ("TORIL_BODY_TIMEOUT",)),
    Setting("idle_timeout", "connections.idle_timeout_s", duration(0.1), ("TORIL_IDLE_TIMEOUT",)),
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
    Setting("targets", "targets", targets),
    Setting("ledger.url", "ledger.url", ledger, ("TORIL_LEDGER_URL",)),
    Setting("payloads.url", "payloads.url", payload_store, ("TORIL_PAYLOADS_URL",)),
    Setting("payloads.threshold", "payloads.threshold_bytes", integer(0), ("TORIL_PAYLOADS_THRESHOLD",)),
    Setting("payloads.redis_max", "payloads.redis_max_bytes", integer(0), ("TORIL_PAYLOADS_REDIS_MAX",)),
    Setting("payloads.endpoint", "payloads.endpoint", http_url, ("TORIL_PAYLOADS_ENDPOINT",)),
    Setting("payloads.region", "payloads.region", text, ("TORIL_PAYLOADS_REGION",)),
    Setting("max_body", "delivery.max_body_bytes", integer(1), ("TORIL_MAX_BODY",)),
    Setting("delivery.lease", "delivery.lease_s", duration(0.1), ("TORIL_DELIVERY_LEASE",)),
    Setting("delivery.recover_every", "delivery.recover_every_s", duration(0.1), ("TORIL_RECOVER_EVERY",)),
    Setting("delivery.janitor_every", "delivery.janitor_every_s", duration(0.1), ("TORIL_JANITOR_EVERY",)),
    Setting("metrics.max_queues", "metrics.max_queues", integer(1, 10_000), ("TORIL_METRICS_MAX_QUEUES",)),
    Setting("log.level", "log.level", choice("debug", "info", "warning", "error"), ("TORIL_LOG_LEVEL",)),
    Setting("log.format", "log.format", choice("auto", "human", "json"), ("TORIL_LOG_FORMAT",)),
)
