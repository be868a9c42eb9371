"""A `RecentAttempts` in memory."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from toril.queues.ports import RecentAttempts
from toril.queues.rules.attempt import Attempt

_KEPT = 20


class FakeAttempts:
    """`noted` has every attempt by queue, in the order in which they were noted."""

    def __init__(self) -> None:
        self.noted: defaultdict[str, list[Attempt]] = defaultdict(list)

    def note(self, queue: str, attempt: Attempt) -> None:
        """Remember an attempt."""
        self.noted[queue].append(attempt)

    async def recent(self, queue: str) -> list[bytes]:
        """Return the newest as JSON, the newest first."""
        newest = self.noted[queue][-_KEPT:]
        return [msgspec.json.encode(attempt) for attempt in sorted(newest, key=lambda one: -one.at)]


if TYPE_CHECKING:
    _: type[RecentAttempts] = FakeAttempts
