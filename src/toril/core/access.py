"""The rights of API tokens, and whether a caller has one on a queue: for REST, streams and sockets alike."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from fnmatch import translate

from msgspec import Struct

from toril.core.errors import Forbidden


class Right(enum.StrEnum):
    """A right that a token may have."""

    QUEUES_READ = "queues:read"
    QUEUES_MANAGE = "queues:manage"
    JOBS_ADD = "jobs:add"
    JOBS_READ = "jobs:read"
    JOBS_MANAGE = "jobs:manage"
    JOBS_LEASE = "jobs:lease"
    SCHEDULERS_READ = "schedulers:read"
    SCHEDULERS_MANAGE = "schedulers:manage"
    EVENTS_READ = "events:read"
    WORKERS_READ = "workers:read"
    WORKERS_MANAGE = "workers:manage"
    METRICS_READ = "metrics:read"
    DELIVERIES_ADD = "deliveries:add"
    DELIVERIES_READ = "deliveries:read"
    DELIVERIES_MANAGE = "deliveries:manage"
    TARGETS_READ = "targets:read"
    TARGETS_MANAGE = "targets:manage"
    AUDIT_READ = "audit:read"
    PAYLOADS_READ = "payloads:read"


ALL = frozenset(Right)
_WORDS = re.compile(r"(?P<thing>[a-z]+|\*):(?P<deed>[a-z]+|\*)\Z")


def rights(patterns: Iterable[str]) -> frozenset[Right]:
    """Return the rights that patterns stand for: `jobs:add`, `jobs:*`, `*:read`, `*`.

    Raises:
        ValueError: a pattern stands for no right.
    """
    allowed: set[Right] = set()
    for pattern in patterns:
        words = _WORDS.match("*:*" if pattern == "*" else pattern)
        meant = {
            right
            for right in Right
            if words is not None
            and words["thing"] in {"*", right.partition(":")[0]}
            and words["deed"] in {"*", right.partition(":")[2]}
        }
        if not meant:
            raise ValueError(f"{pattern!r} is no right; there are {', '.join(Right)}, and *, jobs:*, *:read")
        allowed |= meant
    return frozenset(allowed)


class RateLimit(Struct, frozen=True, forbid_unknown_fields=True):
    """A limit of `max` requests per `per_s` seconds, spread evenly; after a pause, as many at once."""

    max: int
    per_s: float


class Caller:
    """A caller with a token: the token's name, its rights, and the queues (by globs) that they hold for."""

    __slots__ = ("_pattern", "all_queues", "everything", "globs", "name", "rate_limit", "rights")

    def __init__(
        self,
        name: str,
        allowed: frozenset[Right] = ALL,
        queues: Iterable[str] = ("*",),
        rate_limit: RateLimit | None = None,
    ) -> None:
        globs = tuple(queues)
        self.globs = globs
        self.name = name
        self.rights = allowed
        self.rate_limit = rate_limit
        self.all_queues = "*" in globs
        # The hot path asks nothing more of a token that may do everything.
        self.everything = allowed == ALL and self.all_queues and rate_limit is None
        self._pattern = re.compile("|".join(translate(glob) for glob in globs) or r"(?!)")

    def sees(self, queue: str) -> bool:
        """Return True if its rights hold for this queue."""
        return self.all_queues or self._pattern.match(queue) is not None

    def may(self, right: Right | None, queue: str | None = None) -> bool:
        """Return True if it has a right (any at all, for None) on a queue, or on what belongs to no queue."""
        return (right in self.rights if right is not None else bool(self.rights)) and (
            queue is None or self.sees(queue)
        )

    def demand(self, right: Right | None, queue: str | None = None) -> None:
        """Raise Forbidden where it lacks a right; the error is the same whether or not the queue exists.

        Raises:
            Forbidden: it has not this right.
        """
        if not self.may(right, queue):
            raise Forbidden


class Grant(Struct, frozen=True):
    """A token by its SHA-256, the caller that it stands for, and when it expires."""

    sha256: bytes
    caller: Caller
    expires_at_s: float | None = None


ANYBODY = Caller("", frozenset(), ())
"""A caller without a token: it passes where none is needed, and has no rights."""
