"""Waits for work that a test, or a `FakeLeaseStore`, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from toril.engine.ports import MarkerWaits


class FakeMarkerWaits:
    """Keeps BullMQ's markers of all queues in memory.

    A marker stays until its queue is watched; the one that is woken by it has used it up.
    """

    def __init__(self) -> None:
        self.forgotten: list[str] = []
        self._wakes: dict[str, Callable[[float], None]] = {}
        self._markers: dict[str, float] = {}

    @property
    def watched(self) -> set[str]:
        """Return the queues that are waited for now."""
        return set(self._wakes)

    @property
    def markers(self) -> dict[str, float]:
        """Return the markers that are left, by queue: 0, or the time of the earliest delayed job."""
        return dict(self._markers)

    def watch(self, queue: str, wake: Callable[[float], None]) -> None:
        """Wait for this queue until something comes; then call `wake(at_s)` once, from the event loop."""
        self._wakes[queue] = wake
        if queue in self._markers:
            asyncio.get_running_loop().call_soon(self._pop, queue)

    def unwatch(self, queue: str) -> None:
        """Stop waiting for this queue. Does nothing if it was not watched."""
        self._wakes.pop(queue, None)

    def forget(self, queue: str) -> None:
        """Stop waiting for this queue; it is remembered in `forgotten`."""
        self.unwatch(queue)
        self.forgotten.append(queue)

    def mark(self, queue: str, at_s: float = 0.0) -> None:
        """Leave a marker: jobs wait now (0), or from `at_s` on. Of two markers the earlier one counts."""
        self._markers[queue] = min(at_s, self._markers.get(queue, at_s))
        asyncio.get_running_loop().call_soon(self._pop, queue)

    def put_back(self, queue: str, at_s: float) -> None:
        """Leave a marker for the next one that waits."""
        self.mark(queue, at_s)

    def _pop(self, queue: str) -> None:
        if queue in self._markers and queue in self._wakes:
            self._wakes.pop(queue)(self._markers.pop(queue))


if TYPE_CHECKING:
    _: type[MarkerWaits] = FakeMarkerWaits
