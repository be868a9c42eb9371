"""Counts why attempts failed, by queue and reason, until the counts are written.

A reason is text that a receiver may have made up, so everything about it is bounded: its length, how many there are of
one queue, and how many in all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from toril.core.made_attempt import WORKER_GONE

STALLED = WORKER_GONE
MOST_CHARACTERS = 200
_MOST_NOTED = 200
_MOST_OF_A_QUEUE = 20
Why = tuple[str, str]
"""A queue and a reason."""


class Failure(Struct, frozen=True):
    """Why attempts of a queue failed, how often, and when last (wall clock)."""

    queue: str
    reason: str
    times: int
    last_s: float


class FleetFailures(Protocol):
    """Why attempts failed in the whole fleet."""

    async def add(self, noted: Counter[Why]) -> None:
        """Add counts. What the store does not take is dropped; never raises."""
        ...

    async def recent(self, sees: Callable[[str], bool]) -> list[Failure]:
        """Return why attempts of visible queues failed in the last hour, the most frequent reasons first.

        Raises:
            StoreError: the store did not answer.
        """
        ...


class Failures:
    """The failures of this process since the last write. Beyond a number of reasons, further ones are ignored."""

    def __init__(self) -> None:
        self._noted: Counter[Why] = Counter()
        self._of_queue: Counter[str] = Counter()

    def note(self, queue: str, reason: str) -> None:
        """Count a failed attempt."""
        why = (queue, reason[:MOST_CHARACTERS])
        if why not in self._noted:
            if len(self._noted) >= _MOST_NOTED or self._of_queue[queue] >= _MOST_OF_A_QUEUE:
                return
            self._of_queue[queue] += 1
        self._noted[why] += 1

    def taken(self) -> Counter[Why]:
        """Return the counts, and reset them."""
        noted, self._noted = self._noted, Counter()
        self._of_queue.clear()
        return noted
