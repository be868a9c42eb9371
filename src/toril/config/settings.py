"""All settings of one process, as one frozen struct.

The policies of a room are in that room. Here are those that only the instance and the server use. Durations are seconds
(`_s`), sizes are bytes (`_bytes`). The defaults are those of the environment and of the file alike;
`docs/reference/configuration.md` is generated from them.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from toril.core.access import Grant
from toril.core.http.outbound_policy import HostRoute
from toril.delivery.ledger.policy import LedgerPolicy
from toril.delivery.rules.target import DeliveryPolicy, EventsPolicy, TargetSpec
from toril.engine.policy import EnginePolicy
from toril.http_client.egress import EgressPolicy
from toril.payloads.policy import PayloadPolicy
from toril.proxy.rules.upstream import ProxyPolicy
from toril.redis.policy import RedisAddress, StorePolicy
from toril.telemetry.policy import LogPolicy, MetricsPolicy
from toril.web.cors import CorsPolicy


class GatewayPolicy(Struct, frozen=True, kw_only=True):
    """The tokens that are accepted (`auth_tokens` have all rights, `tokens` some), limits, and what is hidden."""

    auth_tokens: tuple[str, ...] = ()
    tokens: tuple[Grant, ...] = ()
    redact: tuple[str, ...] = ()
    min_queue_name_length: int = 3
    max_queue_name_length: int = 100
    max_body_bytes: int = 10 * 1024 * 1024


class ConnectionPolicy(Struct, frozen=True, kw_only=True):
    """The limits of a caller's connection.

    Bytes of a request's head (or of what stands between and behind the chunks of its body); seconds for a whole head,
    between two pieces of a body, and between two requests.
    """

    max_head_bytes: int = 64 * 1024
    head_timeout_s: float = 20.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0


class ShutdownPolicy(Struct, frozen=True, kw_only=True):
    """The time for which requests are served after SIGTERM, while `/ready` is 503; see `web.operations.departure`."""

    delay_s: float = 5.0


class DashboardPolicy(Struct, frozen=True, kw_only=True):
    """Whether there is a dashboard, and at which path (without a slash at its end)."""

    enabled: bool = True
    path: str = "/dashboard"


class McpPolicy(Struct, frozen=True, kw_only=True):
    """Whether agents find tools at `/mcp`."""

    enabled: bool = True


class Role(Struct, frozen=True, kw_only=True):
    """The role of a process. `targets` are those that it delivers to; None is all of them.

    A gateway accepts requests and answers them; a worker works on jobs, and answers only for its health. With targets,
    a process does nothing but deliver to these; with an empty tuple, it does everything but deliveries.
    """

    name: Literal["all", "gateway", "worker"] = "all"
    targets: tuple[str, ...] | None = None

    @property
    def answers(self) -> bool:
        """True if it serves the doors' routes."""
        return self.name != "worker"

    @property
    def works(self) -> bool:
        """True if it works for registered workers and upstreams."""
        return self.name != "gateway" and not self.targets

    def delivers_to(self, target: str) -> bool:
        """Return True if it delivers to a target."""
        return self.name != "gateway" and (self.targets is None or target in self.targets)


class Settings(Struct, frozen=True, kw_only=True):
    """All settings of one process."""

    host: str = "0.0.0.0"  # noqa: S104 - a gateway in a container is reached from outside it
    port: int = 8080
    role: Role = field(default_factory=Role)
    redis: RedisAddress = field(default_factory=RedisAddress)
    without_redis: bool = False
    store: StorePolicy = field(default_factory=StorePolicy)
    engine: EnginePolicy = field(default_factory=EnginePolicy)
    gateway: GatewayPolicy = field(default_factory=GatewayPolicy)
    connections: ConnectionPolicy = field(default_factory=ConnectionPolicy)
    shutdown: ShutdownPolicy = field(default_factory=ShutdownPolicy)
    cors: CorsPolicy = field(default_factory=CorsPolicy)
    dashboard: DashboardPolicy = field(default_factory=DashboardPolicy)
    mcp: McpPolicy = field(default_factory=McpPolicy)
    egress: EgressPolicy = field(default_factory=EgressPolicy)
    worker_routes: tuple[HostRoute, ...] = ()
    targets: tuple[TargetSpec, ...] = ()
    ledger: LedgerPolicy = field(default_factory=LedgerPolicy)
    payloads: PayloadPolicy = field(default_factory=PayloadPolicy)
    delivery: DeliveryPolicy = field(default_factory=DeliveryPolicy)
    events: EventsPolicy = field(default_factory=EventsPolicy)
    proxy: ProxyPolicy = field(default_factory=ProxyPolicy)
    metrics: MetricsPolicy = field(default_factory=MetricsPolicy)
    log: LogPolicy = field(default_factory=LogPolicy)
