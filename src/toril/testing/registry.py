"""The fleet's registered workers, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from toril.core.errors import StoreUnavailable
from toril.queues.ports import RegistryState, WorkerRegistry


class FakeRegistry:
    """Documents by queue, and announcements of which only the newest are kept.

    Args:
        max_len: how many announcements are kept.
        follow_s: how long `changed_since` waits.
    """

    def __init__(self, *, max_len: int = 100, follow_s: float = 3.0) -> None:
        self.documents: dict[str, bytes] = {}
        self.paused_queues: set[str] = set()
        self._max_len = max_len
        self._follow_s = follow_s
        self._announcements: list[tuple[int, str]] = []
        self._last = 0
        self._announced = asyncio.Event()
        self._away = False
        self._removed: set[str] = set()
        self._wipes = 0

    def go_away(self) -> None:
        """Raise `StoreUnavailable` from every call from now on, those that wait included."""
        self._away = True
        self._wake()

    def come_back(self) -> None:
        """Carry out calls again."""
        self._away = False

    def wipe(self) -> None:
        """Lose everything, as with FLUSHALL."""
        self.documents.clear()
        self.paused_queues.clear()
        self._removed.clear()
        self._announcements.clear()
        self._wipes += 1

    def change_silently(self, queue: str, document: bytes | None) -> None:
        """Change a document (None removes it) without an announcement."""
        if document is None:
            self.documents.pop(queue, None)
        else:
            self.documents[queue] = document

    def announce(self, queue: str) -> None:
        """Announce a change."""
        self._last += 1
        self._announcements = [*self._announcements, (self._last, queue)][-self._max_len :]
        self._wake()

    async def put(self, queue: str, document: bytes) -> None:
        """Store a document and announce it."""
        await self._reach()
        self.documents[queue] = document
        self._removed.discard(queue)
        self.announce(queue)

    async def remove(self, queue: str) -> bool:
        """Remove a document and announce it; return False, announcing nothing, if there was none."""
        await self._reach()
        self._removed.add(queue)
        if self.documents.pop(queue, None) is None:
            return False
        self.paused_queues.discard(queue)
        self.announce(queue)
        return True

    async def pause(self, queue: str, *, paused: bool) -> bool:
        """Pause or resume a worker, and announce it; return False if there is none."""
        await self._reach()
        if queue not in self.documents:
            return False
        if paused is not (queue in self.paused_queues):
            self.paused_queues.symmetric_difference_update({queue})
            self.announce(queue)
        return True

    async def paused(self) -> set[str]:
        """Return the queues whose worker is paused."""
        await self._reach()
        return set(self.paused_queues)

    async def all(self) -> dict[str, bytes]:
        """Return every document."""
        await self._reach()
        return dict(self.documents)

    async def some(self, queues: Sequence[str]) -> dict[str, bytes]:
        """Return the documents of these queues, where they exist."""
        await self._reach()
        return {queue: self.documents[queue] for queue in queues if queue in self.documents}

    async def position(self) -> str:
        """Return the id of the newest announcement."""
        await self._reach()
        return str(self._last)

    async def changed_since(self, position: str) -> tuple[str, list[str], bool]:
        """Wait a few seconds for announcements after `position`; return the queues that they name, each once."""
        await self._reach()
        if self._last <= int(position):
            try:
                async with asyncio.timeout(self._follow_s):
                    await self._announced.wait()
            except TimeoutError:
                return position, [], False
            await self._reach()
        new = [(number, queue) for number, queue in self._announcements if number > int(position)]
        if not new:
            return position, [], False
        return str(self._last), list(dict.fromkeys(queue for _, queue in new)), len(new) >= self._max_len

    async def state(self, seen: str | None) -> RegistryState:
        """Return the state of the registry."""
        await self._reach()
        return RegistryState(b"mark %d" % self._wipes, len(self.documents), behind=self._last < int(seen or 0))

    async def put_back(self, documents: Mapping[str, bytes], paused: set[str], seen: str | None) -> list[str]:
        """Store documents that were lost, and announce them; return the queues whose document was stored."""
        await self._reach()
        named = {queue for number, queue in self._announcements if number > int(seen or 0)}
        stored = [queue for queue in documents if queue not in {*named, *self.documents, *self._removed}]
        for queue in stored:
            self.documents[queue] = documents[queue]
            self.paused_queues |= paused & {queue}
            self.announce(queue)
        return stored

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self._away:
            raise StoreUnavailable

    def _wake(self) -> None:
        # Those that wait now are woken; those that come later wait for the next announcement.
        self._announced.set()
        self._announced = asyncio.Event()


if TYPE_CHECKING:
    _: type[WorkerRegistry] = FakeRegistry
