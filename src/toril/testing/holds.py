"""`QueueHolds` in memory."""

from __future__ import annotations


class FakeHolds:
    """`held` has the milliseconds of each queue that is held, `pauses` the queues that are paused, `log` every hold."""

    def __init__(self) -> None:
        self.held: dict[str, int] = {}
        self.pauses: set[str] = set()
        self.log: list[tuple[str, str]] = []

    async def hold(self, queue: str, for_ms: int) -> None:
        """Hold a queue for this time."""
        self.held[queue] = for_ms
        self.log.append(("hold", queue))

    async def let_go(self, queue: str) -> None:
        """End a hold."""
        self.held.pop(queue, None)
        self.log.append(("let_go", queue))

    async def paused(self, queue: str) -> bool:
        """Return True if a queue is paused."""
        return queue in self.pauses
