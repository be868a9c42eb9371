"""A worker's rate limit, as BullMQ counts it."""

from __future__ import annotations

from msgspec import Struct


class Limiter(Struct, frozen=True):
    """At most `max` jobs started per `duration` milliseconds, counted in Redis across all workers."""

    max: int
    duration: int
