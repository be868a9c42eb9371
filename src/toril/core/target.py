"""A delivery's target as the operator configures it: where, how fast, how often again, who we say we are.

`toril.config.targets` decodes the file's `targets:` into these. Secrets are in them, and never in their repr.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from toril.core.access import RateLimit
from toril.core.signing import Secret

RETRIED = frozenset({401, 403, 404, 408, 409, 425, 429, *range(500, 600)})
"""What is tried again where a target says nothing: the request may be right, and the target not ready for it."""

AuthScheme = Literal["none", "bearer", "basic", "header", "passthrough"]


NOT_ALLOWED = frozenset(
    (
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade", "host", "content-length", "idempotency-key",
    )
)  # fmt: skip
"""Headers that belong to the connection or to toril (so do `toril-*` and `webhook-*`)."""


class Timeouts(Struct, frozen=True, kw_only=True):
    """`connect_s` covers name look-up, TCP and TLS; `total_s` everything, until the whole answer is there."""

    connect_s: float = 2.0
    total_s: float = 30.0


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """How often, when and on which statuses to try again. `max_attempts` counts the first.

    The wait is `base_s`, doubled for each further attempt where the backoff is exponential, at most `max_s`; `jitter`
    (0 to 1) is the part of it that is left to chance. Transport errors and timeouts are always tried again.
    """

    max_attempts: int = 8
    backoff: Literal["exponential", "fixed"] = "exponential"
    base_s: float = 1.0
    max_s: float = 600.0
    jitter: float = 0.2
    retry_on: frozenset[int] = RETRIED
    fail_on: frozenset[int] = frozenset()

    def again(self, status: int) -> bool:
        """Whether an answer with this status, which is no 2xx, is tried again."""
        return status in self.retry_on and status not in self.fail_on


class BreakerPolicy(Struct, frozen=True, kw_only=True):
    """After `failures` within `window_s` nothing is sent for `open_for_s`; then `half_open_probes`, which must all go
    well.
    """

    failures: int = 5
    window_s: float = 30.0
    open_for_s: float = 15.0
    half_open_probes: int = 1


class TargetAuth(Struct, frozen=True, kw_only=True):
    """Who we say we are. `secret` was read from `secret_file`: a token, `user:password`, or the header's value.

    `passthrough` sends the authorization that the envelope brings; no other scheme does.
    """

    scheme: AuthScheme = "none"
    secret: str = ""
    secret_file: str | None = None
    header: str | None = None

    @property
    def own_header(self) -> str | None:
        """The header that is set by this, and so by nobody else."""
        match self.scheme:
            case "bearer" | "basic":
                return "authorization"
            case "header":
                return self.header
            case _:
                return None

    @property
    def reserved(self) -> frozenset[str]:
        """The headers, in lower case, that no envelope may bring."""
        if self.scheme == "passthrough":
            return frozenset()
        return frozenset({"authorization", (self.own_header or "authorization").lower()})

    def __repr__(self) -> str:
        return f"TargetAuth(scheme={self.scheme!r}, header={self.header!r}, secret_file={self.secret_file!r})"


class Signing(Struct, frozen=True, kw_only=True):
    """Signs what is sent as Standard Webhooks has it, with each of the secrets in `secret_file`."""

    secret_file: str
    secrets: tuple[Secret, ...] = ()


class Retention(Struct, frozen=True, kw_only=True):
    """For how long what is over is kept."""

    delivered_s: float = 24 * 3600.0
    dead_lettered_s: float = 30 * 24 * 3600.0
    cancelled_s: float = 24 * 3600.0


class TargetSpec(Struct, frozen=True, kw_only=True):
    """A named receiver of deliveries. Its name is the boundary of idempotency, its queue is its own.

    A `breaker` of None is off: whatever comes of attempts, the next one is made.
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


class PayloadPolicy(Struct, frozen=True, kw_only=True):
    """Where bodies over `threshold_bytes` go. What an S3 store needs beside this comes from the `AWS_…` variables.

    Without a store (`url` is None), upstreams' answers of up to `redis_max_bytes` stay in Redis.
    """

    url: str | None = None
    threshold_bytes: int = 256 * 1024
    redis_max_bytes: int = 8 * 1024 * 1024
    endpoint: str | None = None
    region: str | None = None

    @property
    def answer_threshold_bytes(self) -> int:
        """The length above which an upstream's answer is not kept in Redis."""
        return self.redis_max_bytes if self.url is None else self.threshold_bytes


class DeliveryPolicy(Struct, frozen=True, kw_only=True):
    """What all targets share. A worker that has not ended its attempt `lease_s` after it had to is taken for lost.

    `max_body_bytes` is for the decoded body of an envelope.
    """

    lease_s: float = 30.0
    recover_every_s: float = 60.0
    janitor_every_s: float = 60.0
    max_body_bytes: int = 50 * 1024 * 1024
