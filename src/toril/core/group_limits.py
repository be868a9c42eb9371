"""The limits of groups that have none themselves, as a worker, an upstream or a target says them."""

from __future__ import annotations

from msgspec import Struct


class GroupRate(Struct, frozen=True, forbid_unknown_fields=True):
    """At most `max` jobs of a group start per `duration` milliseconds."""

    max: int
    duration: int


class GroupDefault(Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for each group of a queue that has no limits: how many jobs at once, and how often."""

    concurrency: int | None = None
    limit: GroupRate | None = None

    def as_packed(self) -> dict[str, int]:
        """Return what the leasing scripts take, without what is not set."""
        packed = {} if self.concurrency is None else {"concurrency": self.concurrency}
        return packed if self.limit is None else packed | {"max": self.limit.max, "duration": self.limit.duration}
