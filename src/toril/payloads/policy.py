"""What an operator can set about large bodies."""

from __future__ import annotations

from msgspec import Struct


class PayloadPolicy(Struct, frozen=True, kw_only=True):
    """The store of bodies over `threshold_bytes`. An S3 store also reads the `AWS_…` variables.

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
