"""Time that passes only when there is nothing else to do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class FakeClock:
    """A wall clock for `toril.core.ports.Now`, and the event loop's own time inside `driving`.

    Inside `driving`, a loop with nothing ready jumps to its next timer instead of waiting for it: an hour of
    `asyncio.sleep` takes no time, and timers run in the order of their times. Works with asyncio's own loop, not
    with uvloop.

    Args:
        at_s: what the wall clock says in the beginning, in seconds since the epoch.
    """

    def __init__(self, at_s: float = 1_700_000_000.0) -> None:
        self._at_s = at_s
        self.elapsed_s = 0.0

    def __call__(self) -> float:
        """Return the wall clock's time."""
        return self._at_s + self.elapsed_s

    def jump(self, by_s: float) -> None:
        """Let time pass at once, as if the process had stood still meanwhile; timers that came due run next."""
        self.elapsed_s += by_s

    @contextmanager
    def driving(self) -> Iterator[FakeClock]:
        """Make the running event loop follow this clock during a block.

        Raises:
            TypeError: the running loop is not one of asyncio's own.
        """
        loop: Any = asyncio.get_running_loop()
        selector = getattr(loop, "_selector", None)
        if selector is None:
            raise TypeError(f"FakeClock drives asyncio's own event loops, not {type(loop).__name__}")
        select = selector.select
        began = loop.time() - self.elapsed_s

        def select_or_skip(timeout: float | None = None) -> Any:
            if timeout is None or timeout <= 0:
                return select(timeout)
            ready = select(0)
            if not ready:
                self.elapsed_s += timeout
            return ready

        loop.time = lambda: began + self.elapsed_s
        selector.select = select_or_skip
        try:
            yield self
        finally:
            # What was set on the instances gives way to the methods of their classes again.
            del loop.time
            del selector.select
