"""BullMQ's markers of all queues, waited for by several instances."""

import asyncio
import random
from collections.abc import Callable
from contextvars import Context, copy_context

from tests.simulation.wire import Line

Wake = Callable[[float], None]


class Markers:
    """The markers in Redis. Each wakes one of those who wait; one in `lost` wakes none, as if its waiter had died."""

    def __init__(self, chance: random.Random, lost: float) -> None:
        self.lost = lost
        self._chance = chance
        self._markers: dict[str, float] = {}
        self._waiting: dict[str, list[tuple[Line, Wake, Context]]] = {}

    def mark(self, queue: str, at_s: float) -> None:
        """Leave a marker; of two, the earlier one counts."""
        self._markers[queue] = min(at_s, self._markers.get(queue, at_s))
        self._soon(queue)

    def flush(self) -> None:
        """Lose all markers."""
        self._markers.clear()

    def back(self) -> None:
        """Let those who wait over a line that was away see the markers."""
        for queue in self._markers:
            self._soon(queue)

    def of(self, line: Line) -> "LineMarkers":
        """Return the markers as an instance sees them."""
        return LineMarkers(self, line)

    def wait(self, queue: str, line: Line, wake: Wake) -> None:
        """Wait for a marker of a queue."""
        self._waiting.setdefault(queue, []).append((line, wake, copy_context()))
        if queue in self._markers:
            self._soon(queue)

    def leave(self, queue: str, line: Line) -> None:
        """Wait no longer."""
        self._waiting[queue] = [one for one in self._waiting.get(queue, ()) if one[0] is not line]

    def _soon(self, queue: str) -> None:
        asyncio.get_running_loop().call_later(0.0005 * self._chance.random(), self._pop, queue, context=Context())

    def _pop(self, queue: str) -> None:
        waiting = self._waiting.get(queue, [])
        first = next((one for one in waiting if one[0].reachable), None)
        if first is None or queue not in self._markers:
            return
        at_s = self._markers.pop(queue)
        if self._chance.random() < self.lost:
            return
        waiting.remove(first)
        _, wake, context = first
        context.run(wake, at_s)


class LineMarkers:
    """`MarkerWaits` of one instance."""

    def __init__(self, markers: Markers, line: Line) -> None:
        self._markers = markers
        self._line = line

    def watch(self, queue: str, wake: Wake) -> None:
        """Wait for this queue."""
        if self._line.alive:
            self._markers.leave(queue, self._line)
            self._markers.wait(queue, self._line, wake)

    def unwatch(self, queue: str) -> None:
        """Stop waiting for this queue."""
        self._markers.leave(queue, self._line)

    def forget(self, queue: str) -> None:
        """Stop waiting for this queue."""
        self.unwatch(queue)

    def put_back(self, queue: str, at_s: float) -> None:
        """Leave a marker for the next one that waits."""
        if self._line.alive and not self._line.away:
            self._markers.mark(queue, at_s)
