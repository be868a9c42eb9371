"""What an operator can set about Redis.

Durations are seconds (`_s`).
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class RedisAddress(Struct, frozen=True, kw_only=True):
    """The address of Redis, with credentials. `path` (a unix socket) wins over host and port.

    With `sentinels` (host and port of each), these name the server that is the master; an address that they have named
    has its own host. Without a `host` it is not known yet.
    """

    host: str = "localhost"
    port: int = 6379
    path: str | None = None
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: bool = False
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True
    cluster: bool = False
    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_master: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    sentinel_tls: bool = False

    def __str__(self) -> str:
        """Return the address without its secrets, for logs and errors."""
        if self.sentinels and not self.host:
            places = ",".join(f"{host}:{port}" for host, port in self.sentinels)
            return f"{'rediss' if self.tls else 'redis'}+sentinel://{places}/{self.sentinel_master}/{self.db}"
        if self.path is not None:
            return f"unix://{self.path}?db={self.db}"
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.db}"


class Acknowledge(Struct, frozen=True):
    """What a write must have reached before it is acknowledged: the server's memory or disk, or so many replicas."""

    kind: Literal["memory", "fsync", "replicas"] = "memory"
    replicas: int = 0

    def __str__(self) -> str:
        """Return it as it is configured."""
        return f"replicas:{self.replicas}" if self.kind == "replicas" else self.kind

    def command(self, timeout_ms: int) -> tuple[str | int, ...]:
        """Return the command that waits until what its connection wrote has arrived there."""
        return ("WAITAOF", 1, 0, timeout_ms) if self.kind == "fsync" else ("WAIT", self.replicas, timeout_ms)

    def shortfall(self, reply: Any) -> str | None:
        """Return what is missing after this reply to the command; None if nothing is."""
        if self.kind == "fsync":
            return None if int(reply[0]) >= 1 else "Redis has not written it to its disk in time"
        count = int(reply)
        return None if count >= self.replicas else f"{count} of {self.replicas} replicas have it in time"


class StorePolicy(Struct, frozen=True, kw_only=True):
    """The names of what is in Redis, and the timeouts of its connections.

    A command that has had no answer for `command_timeout_s` fails; a connection that has been silent for
    `silence_timeout_s` with commands waiting is dropped and made anew. Both are longer where many commands are under
    way, by 0.2 ms for each.
    """

    connect_timeout_s: float = 2.0
    command_timeout_s: float = 1.5
    silence_timeout_s: float = 6.0
    backoff_first_s: float = 0.05
    backoff_max_s: float = 1.0
    queue_prefix: str = "bull"
    queue_cache_size: int = 10_000
    worker_hash: str = "bmqp:w:meta"
    worker_stream: str = "bmpq:w:stream"
    worker_stream_max_len: int = 100
    marker_shard: int = 256
    acknowledge: Acknowledge = Acknowledge()
    acknowledge_timeout_s: float = 3.0
    presence_connections: int = 50
    presence_for_s: float = 300.0
