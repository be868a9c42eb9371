"""A presence that only remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toril.core.ports.work import Presence


class FakePresence:
    """`shown` holds the queues that a dashboard would see a worker of."""

    def __init__(self) -> None:
        self.shown: set[str] = set()

    def active(self, queue: str) -> None:
        """The queue had a job just now."""
        self.shown.add(queue)

    def gone(self, queue: str) -> None:
        """The queue has no worker here any more."""
        self.shown.discard(queue)


if TYPE_CHECKING:
    _: type[Presence] = FakePresence
