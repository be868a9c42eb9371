"""An asyncio event loop without I/O, whose time passes only when there is nothing else to do."""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, Protocol


class NothingLeft(RuntimeError):
    """No task can ever go on: everything waits for something that no timer brings."""


class NoTimePasses(RuntimeError):
    """Something goes round and round, and no time passes meanwhile."""


_MOST_TURNS = 20_000


class Mortal(Protocol):
    """Something whose timers end with it, and wait while it stands still."""

    alive: bool
    still_until: float


OWNER: ContextVar[Mortal | None] = ContextVar("owner", default=None)
"""In the context of a simulated process, the process: its timers do nothing once it is gone."""


class _OrderedTask(asyncio.Task[Any]):
    """A task whose place in a set does not depend on its address: a TaskGroup cancels its tasks in a set's order."""

    _numbers = itertools.count(1)

    def __init__(self, *args: Any, **options: Any) -> None:
        self._number = next(self._numbers)
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self._number


class _NoFiles:
    """Stands where a loop has its selector: no file ever gets ready, and a wait is over at once."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise NothingLeft
        self._turns = 0 if timeout > 0 else self._turns + 1
        if self._turns > _MOST_TURNS:
            raise NoTimePasses
        self._loop.elapsed_s += max(0.0, timeout)
        return []

    def close(self) -> None:
        pass


class _OwnedTimer(asyncio.TimerHandle):
    """A timer of a process; `later` is what takes its place where the process stood still at its time."""

    later: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        super().cancel()
        if self.later is not None:
            self.later.cancel()


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs coroutines in virtual time, the same ones always in the same order."""

    def __init__(self, at_s: float = 1000.0) -> None:
        super().__init__()
        self._scheduled: list[asyncio.TimerHandle]
        self.elapsed_s = at_s
        self._clock_resolution = 1e-9
        self._selector = _NoFiles(self)
        self.set_task_factory(self._ordered)

    def time(self) -> float:
        """Return the virtual time."""
        return self.elapsed_s

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Call something at this time, unless it is a timer of a process that is gone by then."""
        owner = OWNER.get() if context is None else None
        if owner is not None:
            return self._owned(when, owner, callback, args)
        return super().call_at(when, callback, *args, context=context)

    def _owned(self, when: float, owner: Mortal, callback: Callable[..., Any], args: tuple[Any, ...]) -> "_OwnedTimer":
        timer = _OwnedTimer(when, self._fire, (owner, callback, args), self)
        timer._args = (timer, owner, callback, args)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def _fire(self, timer: "_OwnedTimer", owner: Mortal, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if not owner.alive:
            return
        if owner.still_until > self.elapsed_s + 1e-6:
            timer.later = self._owned(owner.still_until, owner, callback, args)
        else:
            callback(*args)

    def _ordered(self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> Any:
        return _OrderedTask(coro, loop=loop, **options)

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def run_virtually(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end on a loop of virtual time; what it left running is an error."""
    _OrderedTask._numbers = itertools.count(1)
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        result = loop.run_until_complete(main)
        left = asyncio.all_tasks(loop)
        if left:
            raise AssertionError(f"still running at the end: {sorted(task.get_name() for task in left)}")
        return result
    finally:
        for _ in range(10):
            for task in asyncio.all_tasks(loop):
                task.cancel()
            for _ in range(10):
                loop.call_soon(loop.stop)
                loop.run_forever()
        asyncio.set_event_loop(None)
        loop.close()
