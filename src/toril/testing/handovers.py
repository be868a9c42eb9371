"""A `LeasedQueues` and a `SettlementNotifications` in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from toril.core.errors import StoreError


class FakeLeasedQueues:
    """`until` says of each noted queue until when it has leases. `fault` is raised by `note` while it is set."""

    def __init__(self) -> None:
        self.until: dict[str, float] = {}
        self.fault: StoreError | None = None

    async def note(self, queue: str, until_s: float) -> None:
        """Remember that this queue may have such leases until then."""
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        self.until[queue] = max(self.until.get(queue, 0.0), until_s)

    async def all(self) -> list[str]:
        """Return the queues that were noted."""
        return list(self.until)


class FakeSettlementNotifications:
    """`told` has the notifications to others; calling `say` is one from another instance."""

    def __init__(self) -> None:
        self.told: list[tuple[bytes, str, bytes]] = []
        self.fault: StoreError | None = None
        self.say: Callable[[str, bytes], None] | None = None

    async def tell(self, instance: bytes, queue: str, job_id: bytes) -> None:
        """Notify an instance."""
        await asyncio.sleep(0)
        if self.fault is not None:
            raise self.fault
        self.told.append((instance, queue, job_id))

    async def follow(self, heard: Callable[[str, bytes], None]) -> None:
        """Pass on what `say` is called with, until cancelled."""
        self.say = heard
        await asyncio.Event().wait()
