"""A `Presence` in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toril.engine.ports import Presence


class FakePresence:
    """`shown` holds the queues that a dashboard would see a worker of."""

    def __init__(self) -> None:
        self.shown: set[str] = set()

    def active(self, queue: str) -> None:
        """Show the queue."""
        self.shown.add(queue)

    def gone(self, queue: str) -> None:
        """Stop showing the queue."""
        self.shown.discard(queue)


if TYPE_CHECKING:
    _: type[Presence] = FakePresence
