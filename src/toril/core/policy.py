"""What an operator can set, as frozen structs. `toril.config` decodes straight into these.

Durations are seconds (`_s`), sizes are bytes (`_bytes`). Defaults are the ones of the environment variables
and of the configuration file alike; `docs/configuration.md` is checked against them by a test.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from toril.core.access import Grant
from toril.core.headers import ANSWER_HEAD_BYTES
from toril.core.target import DeliveryPolicy, PayloadPolicy, TargetSpec
from toril.core.upstream import ProxyPolicy


class RedisAddress(Struct, frozen=True, kw_only=True):
    """Where Redis is and how to be let in. `path` (a unix socket) wins over host and port."""

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

    def __str__(self) -> str:
        """The address without its secrets, for logs and errors."""
        if self.path is not None:
            return f"unix://{self.path}?db={self.db}"
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.db}"


class StorePolicy(Struct, frozen=True, kw_only=True):
    """How toril behaves towards Redis.

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
    queue_cache_size: int = 100
    worker_hash: str = "bmqp:w:meta"
    worker_stream: str = "bmpq:w:stream"
    worker_stream_max_len: int = 100
    marker_shard: int = 256
    presence_connections: int = 50
    presence_for_s: float = 300.0


class EnginePolicy(Struct, frozen=True, kw_only=True):
    """How leases are kept and crash leftovers found.

    `process` of `processes` says which share of each worker's concurrency this process runs.
    """

    lock_s: float = 30.0
    stalled_interval_s: float = 30.0
    poll_interval_s: float = 10.0
    grace_s: float = 30.0
    connect_timeout_s: float = 2.0
    max_response_bytes: int = 10 * 1024 * 1024
    max_response_head_bytes: int = ANSWER_HEAD_BYTES
    process: int = 0
    processes: int = 1


class GatewayPolicy(Struct, frozen=True, kw_only=True):
    """What the HTTP side accepts, and from whom: `auth_tokens` have all rights, `tokens` those that they grant."""

    auth_tokens: tuple[str, ...] = ()
    tokens: tuple[Grant, ...] = ()
    min_queue_name_length: int = 3
    max_queue_name_length: int = 100
    max_body_bytes: int = 10 * 1024 * 1024


class ConnectionPolicy(Struct, frozen=True, kw_only=True):
    """What a connection of a caller may take: bytes of a request's head (or of what stands between and behind the
    chunks of its body), and seconds: for a whole head, between two pieces of a body, and between two requests.
    """

    max_head_bytes: int = 64 * 1024
    head_timeout_s: float = 20.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0


class ShutdownPolicy(Struct, frozen=True, kw_only=True):
    """For how long requests are served after SIGTERM, while `/ready` is 503 already; see `toril.gateway.departure`."""

    delay_s: float = 5.0


class EgressPolicy(Struct, frozen=True, kw_only=True):
    """Where requests to what callers register may go; `toril.core.egress` says what the policies and lists mean."""

    policy: Literal["internal", "public"] = "internal"
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class MetricsPolicy(Struct, frozen=True, kw_only=True):
    """How many queues `/metrics` shows by name, and where the processes of an instance leave what they measure."""

    max_queues: int = 100
    folder: str | None = None


class LedgerPolicy(Struct, frozen=True, kw_only=True):
    """Where deliveries are kept: `postgresql://…`, `sqlite:///path` (four slashes for an absolute one), or `none`: in
    Redis alone.
    """

    url: str = "sqlite:///toril-ledger.sqlite3"


class LogPolicy(Struct, frozen=True, kw_only=True):
    """How log lines look. `auto` is human on a terminal and JSON otherwise."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "human", "json"] = "auto"


class Role(Struct, frozen=True, kw_only=True):
    """What of toril a process is. `targets` are those that it delivers to; None is all of them.

    A gateway accepts and answers, and works on nothing by itself; a worker works, and answers only how it fares. One
    that is given targets works on these alone; given none of them (an empty tuple), on everything else.
    """

    name: Literal["all", "gateway", "worker"] = "all"
    targets: tuple[str, ...] | None = None

    @property
    def answers(self) -> bool:
        """Whether it has the doors."""
        return self.name != "worker"

    @property
    def works(self) -> bool:
        """Whether it works for registered workers and upstreams."""
        return self.name != "gateway" and not self.targets

    def delivers_to(self, target: str) -> bool:
        """Whether it delivers to a target."""
        return self.name != "gateway" and (self.targets is None or target in self.targets)


class Settings(Struct, frozen=True, kw_only=True):
    """Everything one process needs to know."""

    host: str = "0.0.0.0"  # noqa: S104 - a gateway in a container is reached from outside it
    port: int = 8080
    role: Role = field(default_factory=Role)
    redis: RedisAddress = field(default_factory=RedisAddress)
    store: StorePolicy = field(default_factory=StorePolicy)
    engine: EnginePolicy = field(default_factory=EnginePolicy)
    gateway: GatewayPolicy = field(default_factory=GatewayPolicy)
    connections: ConnectionPolicy = field(default_factory=ConnectionPolicy)
    shutdown: ShutdownPolicy = field(default_factory=ShutdownPolicy)
    egress: EgressPolicy = field(default_factory=EgressPolicy)
    targets: tuple[TargetSpec, ...] = ()
    ledger: LedgerPolicy = field(default_factory=LedgerPolicy)
    payloads: PayloadPolicy = field(default_factory=PayloadPolicy)
    delivery: DeliveryPolicy = field(default_factory=DeliveryPolicy)
    proxy: ProxyPolicy = field(default_factory=ProxyPolicy)
    metrics: MetricsPolicy = field(default_factory=MetricsPolicy)
    log: LogPolicy = field(default_factory=LogPolicy)
