"""A delivery's target as the operator configures it: URL, timeouts, limits, retries, breaker, authentication.

`toril.delivery.settings` decodes the file's `targets:` into these. Secrets are in them, and never in their repr.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from toril.core.access import RateLimit
from toril.core.group_limits import GroupDefault
from toril.core.http.outbound_policy import DIRECT, OutboundPolicy
from toril.core.http.signing import Secret
from toril.delivery.rules.retry_policy import RetryPolicy

ReplayKey = Literal["keep", "new"]
AuthScheme = Literal["none", "bearer", "basic", "header", "passthrough", "oauth2"]


NOT_ALLOWED = frozenset(
    (
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade", "host", "content-length", "idempotency-key",
    )
)  # fmt: skip
"""Headers that belong to the connection or to toril; so do `toril-*` and `webhook-*`."""


class Timeouts(Struct, frozen=True, kw_only=True):
    """`connect_s` covers name look-up, TCP and TLS; `total_s` everything, until the whole answer is there."""

    connect_s: float = 2.0
    total_s: float = 30.0


class BreakerPolicy(Struct, frozen=True, kw_only=True):
    """After `failures` in a row no request is made for `open_for_s`; neither when `failure_rate` of at least
    `min_attempts` in `window_s` have failed. Then `half_open_probes` are made, which must all succeed to close it.
    """

    failures: int = 5
    failure_rate: float = 0.5
    min_attempts: int = 20
    window_s: float = 30.0
    open_for_s: float = 15.0
    half_open_probes: int = 1


class TargetAuth(Struct, frozen=True, kw_only=True):
    """How toril authenticates to the target. `secret` is what `secret_file` held: a token, `user:password`, or the
    value of the header.

    `passthrough` sends the authorization that the envelope brings; no other scheme does. `oauth2` sends an access token
    of the client that stands in the target's `outbound`.
    """

    scheme: AuthScheme = "none"
    secret: str = ""
    secret_file: str | None = None
    header: str | None = None

    @property
    def own_header(self) -> str | None:
        """The header that this scheme sets, and an envelope may not."""
        match self.scheme:
            case "bearer" | "basic" | "oauth2":
                return "authorization"
            case "header":
                return self.header
            case _:
                return None

    @property
    def reserved(self) -> frozenset[str]:
        """The headers, in lower case, that an envelope may not bring."""
        if self.scheme == "passthrough":
            return frozenset()
        return frozenset({"authorization", (self.own_header or "authorization").lower()})

    def __repr__(self) -> str:
        return f"TargetAuth(scheme={self.scheme!r}, header={self.header!r}, secret_file={self.secret_file!r})"


class Signing(Struct, frozen=True, kw_only=True):
    """Signs requests as Standard Webhooks has it, with each of the secrets in `secret_file`."""

    secret_file: str
    secrets: tuple[Secret, ...] = ()


class Retention(Struct, frozen=True, kw_only=True):
    """How long finished deliveries are kept, by status."""

    delivered_s: float = 24 * 3600.0
    dead_lettered_s: float = 30 * 24 * 3600.0
    cancelled_s: float = 24 * 3600.0


class TargetSpec(Struct, frozen=True, kw_only=True):
    """A named receiver of deliveries. Its name is the boundary of idempotency, its queue is its own.

    A `breaker` of None is off: the next attempt is made whatever the outcomes. `replay_key` says whether a replay sends
    the same `idempotency-key` as before or a new one. `group_by` is the label that names the group of a delivery
    whose envelope names none, `group` has the limits of each group that has none itself.
    """

    name: str
    url: str
    timeout: Timeouts = field(default_factory=Timeouts)
    concurrency: int = 20
    rate_limit: RateLimit | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    breaker: BreakerPolicy | None = field(default_factory=BreakerPolicy)
    auth: TargetAuth = field(default_factory=TargetAuth)
    signing: Signing | None = None
    retention: Retention = field(default_factory=Retention)
    replay_key: ReplayKey = "keep"
    group_by: str | None = None
    group: GroupDefault | None = None
    outbound: OutboundPolicy = DIRECT


class DeliveryPolicy(Struct, frozen=True, kw_only=True):
    """What all targets share. An attempt without an end counts as lost `lease_s` after its longest duration.

    `max_body_bytes` limits the decoded body of an envelope.
    """

    lease_s: float = 30.0
    recover_every_s: float = 60.0
    janitor_every_s: float = 60.0
    max_body_bytes: int = 50 * 1024 * 1024


class EventsPolicy(Struct, frozen=True, kw_only=True):
    """Which events are told to which target. After `stuck_after_s` a queue whose oldest job still waits is stuck."""

    target: str | None = None
    types: tuple[str, ...] = ("*",)
    stuck_after_s: float = 600.0
