"""An asyncio event loop without I/O, whose time passes only when there is nothing else to do."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, Protocol


class NothingLeft(RuntimeError):
    """No task can ever go on: everything waits for something that no timer brings."""


class Mortal(Protocol):
    """Something whose timers end with it."""

    alive: bool


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

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise NothingLeft
        self._loop.elapsed_s += max(0.0, timeout)
        return []

    def close(self) -> None:
        pass


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs coroutines in virtual time, the same ones always in the same order."""

    def __init__(self, at_s: float = 1000.0) -> None:
        super().__init__()
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
            return super().call_at(when, _unless_gone, owner, callback, args)
        return super().call_at(when, callback, *args, context=context)

    def _ordered(self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> Any:
        return _OrderedTask(coro, loop=loop, **options)

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def _unless_gone(owner: Mortal, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
    if owner.alive:
        callback(*args)


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
