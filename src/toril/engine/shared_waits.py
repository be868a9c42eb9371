"""Shares waiting for a queue in one process: by a registered worker, any number of sockets, and requests for jobs.

A marker says that jobs wait, not how many, so it wakes one of them: the one that has waited longest. BullMQ's scripts
leave a marker again where more jobs wait, and that wakes the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from toril.engine.ports import MarkerWaits

Wake = Callable[[float], None]


class SharedWaits:
    """Shares one wait per queue among all who wait for it here."""

    def __init__(self, waits: MarkerWaits) -> None:
        self._waits = waits
        # By queue, in the order in which they began to wait.
        self._wakes: dict[str, dict[Wake, None]] = {}

    def watch(self, queue: str, wake: Wake) -> None:
        """Wait for this queue; `wake(at_s)` is called once, unless another one gets the marker."""
        wakes = self._wakes.get(queue)
        if wakes is None:
            wakes = self._wakes[queue] = {}
            self._waits.watch(queue, partial(self._woken, queue))
        wakes[wake] = None

    def unwatch(self, queue: str, wake: Wake) -> None:
        """Stop waiting. Does nothing if it did not wait."""
        wakes = self._wakes.get(queue)
        if wakes is None:
            return
        wakes.pop(wake, None)
        if not wakes:
            del self._wakes[queue]
            self._waits.unwatch(queue)

    def forget(self, queue: str) -> None:
        """Free what is kept for a queue without a consumer here, unless something still waits for it."""
        if queue not in self._wakes:
            self._waits.forget(queue)

    def pass_on(self, queue: str, at_s: float) -> None:
        """Wake another one for jobs that the one that was woken cannot take, here or in another process."""
        if queue in self._wakes:
            self._waits.unwatch(queue)
            self._woken(queue, at_s)
        else:
            self._waits.put_back(queue, at_s)

    def _woken(self, queue: str, at_s: float) -> None:
        wakes = self._wakes[queue]
        wake = next(iter(wakes))
        del wakes[wake]
        if wakes:
            self._waits.watch(queue, partial(self._woken, queue))
        else:
            del self._wakes[queue]
        wake(at_s)
