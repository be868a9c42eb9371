"""What every simulated world has: a seed, clocks, a trace, faults that a plan prescribes, and instances to kill."""

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, Generic, TypeVar

import structlog

from tests.simulation.markers import Markers
from tests.simulation.queue_store import Broken, WatchedStore
from tests.simulation.virtual_loop import OWNER
from tests.simulation.wire import CALM, ROUGH, Line
from toril.core.lease import Lease
from toril.engine import consumer as consumers
from toril.engine.consumer import Consumer
from toril.engine.policy import EnginePolicy
from toril.engine.slot import Slot

LOCK_S = 6.0
POLICY = EnginePolicy(lock_s=LOCK_S, stalled_interval_s=4.0, poll_interval_s=3.0, grace_s=2.0)
_WRITES = frozenset({"complete", "retry", "fail", "snooze", "release"})
HEALED_WITHIN_S = 400.0
"""So long after the last fault everything must have come to its end."""


class Trace:
    """What happened, in order."""

    def __init__(self) -> None:
        self.lines: list[tuple[float, tuple[Any, ...]]] = []

    def text(self, last: int | None = None) -> str:
        """Return the last lines, or all, as text."""
        lines = self.lines if last is None else self.lines[-last:]
        return "\n".join(f"{at_s:10.4f} {' '.join(map(_shown, what))}" for at_s, what in lines)


def _shown(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


class OrderedSlot(Slot):
    """A slot whose place in a set is the same in each run."""

    __slots__ = ("_number",)
    numbers = 0

    def __init__(self, token: bytes) -> None:
        super().__init__(token)
        OrderedSlot.numbers += 1
        self._number = OrderedSlot.numbers

    def __hash__(self) -> int:
        return self._number


class OrderedConsumer(Consumer):
    """A consumer whose place in a set is the same in each run."""

    __slots__ = ("_number", "loses")
    numbers = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.loses: Callable[[Lease], None] = lambda lease: None
        OrderedConsumer.numbers += 1
        self._number = OrderedConsumer.numbers

    def __hash__(self) -> int:
        return self._number

    def lose(self, lease: Lease) -> None:
        """As a consumer does, after a look at whether the lease is lost."""
        self.loses(lease)
        super().lose(lease)


P = TypeVar("P", bound="Process")


class World(ABC, Generic[P]):
    """A seeded world. Its subclasses add stores and instances.

    Args:
        seed: decides about everything.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.plan = random.Random(f"{seed}:plan")
        self.trace = Trace()
        self.broken: Exception | None = None
        self.severity = self.plan.choice((0.0, 0.5, 1.0, 1.0, 3.0))
        # Where nothing is wrong, attempts outlast locks, which then have to be renewed.
        self.timeout_s = 4.0 if self.severity else 2 * LOCK_S
        self.rates = ROUGH.scaled(self.severity)
        self.markers = Markers(self.chance("markers"), 0.05 * self.severity)
        self.stores: dict[str, WatchedStore] = {}
        self.lines: list[Line] = []
        self.jumped_s = 0.0
        self.instances: list[P] = []
        self._started = 0
        self._leaves: list[asyncio.Task[None]] = []
        self.loop = asyncio.get_running_loop()

    @abstractmethod
    async def run(self) -> None:
        """Live from the first event to the last one. Raises `Broken`."""

    def stop(self) -> None:
        """End every process that still runs."""
        for line in self.lines:
            line.cut()

    @abstractmethod
    def process(self, name: str) -> P:
        """Return another instance, which starts."""

    def start(self, count: int = 1) -> None:
        """Start more instances."""
        for _ in range(count):
            self._started += 1
            self.instances.append(self.process(f"i{self._started}"))
            self.note(self.instances[-1].name, "starts")

    @property
    def running(self) -> list[P]:
        """The instances that can serve."""
        now = self.loop.time()
        return [
            one
            for one in self.instances
            if one.line.alive and one.ready.is_set() and not one.leaving.is_set() and one.line.still_until <= now + 1e-6
        ]

    def chance(self, name: str) -> random.Random:
        """Return a source of random numbers of this name."""
        return random.Random(f"{self.seed}:{name}")

    def now(self) -> float:
        """Return the time of the stores' clock."""
        return 1_700_000_000.0 + self.loop.time() + self.jumped_s

    def note(self, *what: Any) -> None:
        """Add a line to the trace."""
        self.trace.lines.append((self.loop.time(), what))

    def line(self, name: str) -> Line:
        """Return the line of a new instance."""
        line = Line(name, self.chance(name), self.rates, self.step, self.note)
        self.lines.append(line)
        return line

    def step(self) -> None:
        """Check everything after a step. The first violation ends the run."""
        if self.broken is not None:
            return
        try:
            self.check()
        except Broken as exc:
            self.breaks(exc)

    def breaks(self, exc: Exception) -> None:
        """Remember the first thing that broke."""
        if self.broken is None:
            self.note("BROKEN", exc)
            self.broken = exc

    def check(self) -> None:
        """Raise `Broken` where something that must always be true is not."""
        for queue, store in self.stores.items():
            for job_id, place in store.look():
                self.note(queue, job_id, "->", place)
                self.moved(store, job_id, place)

    def moved(self, store: WatchedStore, job_id: bytes, place: str | None) -> None:
        """Check a job that has moved."""

    def faults(self, *others: Callable[[], None]) -> list[tuple[float, Any]]:
        """Return when which faults happen; `others` are those that only this world has."""
        plan = self.plan
        if not self.severity:
            return []
        events: list[tuple[float, Any]] = []
        for _ in range(plan.randint(0, 5)):
            fault = plan.choice((self.crash, self.crash, self.redeploy, self.cut_off, self.jump, self.freeze, *others))
            events.append((20.0 * plan.random(), fault))
        return events

    def crash(self) -> None:
        """Kill an instance; another one starts later."""
        if self.running:
            self.plan.choice(self.running).kill()
            self.loop.call_later(5.0 * self.plan.random(), self.start)

    def redeploy(self) -> None:
        """Let an instance leave in good order, and start another one."""
        if self.running:
            leaving = self.plan.choice(self.running)
            self.start()
            self._leaves.append(self.loop.create_task(leaving.leave()))

    def cut_off(self) -> None:
        """Cut an instance off from its stores for a while."""
        if self.running:
            line = self.plan.choice(self.running).line
            line.away = True
            self.note(line.name, "is cut off")
            self.loop.call_later(2.5 * LOCK_S * self.plan.random() ** 2, self._joined, line)

    def _joined(self, line: Any) -> None:
        line.away = False
        self.note(line.name, "is back")
        self.markers.back()

    def freeze(self) -> None:
        """Let a process stand still for a while, as one that is stopped or whose machine is."""
        if self.running:
            frozen = self.plan.choice(self.running)
            for_s = 2.5 * LOCK_S * self.plan.random()
            self.note(frozen.name, "stands still for", round(for_s, 3))
            for line in frozen.lines:
                line.still_until = self.loop.time() + for_s
            self.loop.call_later(for_s, self.markers.back)

    def jump(self) -> None:
        """Let the stores' clock jump; instances learn of it a little later."""
        by_s = self.plan.uniform(-6.0, 8.0)
        self.note("the clock jumps by", round(by_s, 3))
        self.jumped_s += by_s
        for instance in self.running:
            instance.clock_off_s -= by_s
            self.loop.call_later(3.0 * self.plan.random(), self._set_right, instance)

    def _set_right(self, instance: "Process") -> None:
        instance.clock_off_s = 0.0

    async def end(self) -> None:
        """Let all instances leave. Raises what has broken."""
        for instance in self.running:
            await instance.leave()
        await asyncio.wait([one.task for one in self.instances], timeout=HEALED_WITHIN_S)
        if self.broken is not None:
            raise self.broken

    def calm_down(self) -> None:
        """Let no fault happen from now on."""
        self.note("calm from now on")
        self.rates = CALM
        self.markers.lost = 0.0
        for line in self.lines:
            line.rates = CALM
            line.away = False
            line.still_until = 0.0
        self.markers.back()

    async def until(self, fact: Callable[[], bool], within_s: float, missing: Callable[[], str]) -> None:
        """Wait until something is true. What takes too long is `Broken`."""
        until = self.loop.time() + within_s
        while not fact():
            if self.broken is not None:
                raise self.broken
            if self.loop.time() > until:
                raise Broken(f"{within_s:g} s after the last fault: {missing()}")
            await asyncio.sleep(0.25)
        if self.broken is not None:
            raise self.broken

    async def happen(self, events: list[tuple[float, Callable[[], Awaitable[None] | None]]]) -> None:
        """Let planned events happen at their times."""
        began = self.loop.time()
        for at_s, event in sorted(events, key=lambda one: one[0]):
            await asyncio.sleep(max(0.0, began + at_s - self.loop.time()))
            if self.broken is not None:
                raise self.broken
            done = event()
            if done is not None:
                await done
            self.step()


class Process:
    """One instance's process: tasks in a group, a clock that may be wrong, and an end."""

    def __init__(self, world: World[Any], name: str) -> None:
        self.world = world
        self.name = name
        self.line = world.line(name)
        self.lines = [self.line]
        self.clock_off_s = 0.0
        self.ready = asyncio.Event()
        self.leaving = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(self._run(), name=name)
        self.tasks: asyncio.TaskGroup

    def now(self) -> float:
        """Return the time of the stores' clock, as far as this instance knows it."""
        return self.world.now() + self.clock_off_s

    async def serve(self) -> None:
        """Start everything in `tasks`."""

    async def drain(self) -> None:
        """Take nothing new and finish or give back what is under way."""

    def check_write(self, method: str, given: tuple[Any, ...]) -> None:
        """Break the run where a call of a lease store is to write for a lease that was lost."""
        if method in _WRITES and given[0].lost:
            self.world.breaks(Broken(f"{self.name} writes {method} of job {given[0].job_id!r}, whose lease it lost"))

    def check_left(self, consumers: Iterable[Consumer], *, excused: bool) -> None:
        """Break the run where it leaves with slots taken, unless a store is away."""
        if not excused and any(consumer.slots or consumer.in_flight for consumer in consumers):
            self.world.breaks(Broken(f"{self.name} has left with slots taken"))

    async def _run(self) -> None:
        OWNER.set(self.line)
        self._context = copy_context()
        try:
            async with asyncio.TaskGroup() as self.tasks:
                await self.serve()
                self.ready.set()
                await self.leaving.wait()
                await self.drain()
                self.line.cut()
                for task in list(self.tasks._tasks):
                    task.cancel()
        except asyncio.CancelledError:
            if self.line.alive:
                raise
        except BaseExceptionGroup as exc:
            # What happens in a process after its end does not matter.
            if self.line.alive:
                self.world.breaks(exc.exceptions[0])  # type: ignore[arg-type]

    def serves(self, request: Coroutine[Any, Any, None]) -> None:
        """Serve a request in a task."""
        self.tasks.create_task(request, context=self._context.copy())

    def hears(self, listens: Callable[..., None], *news: Any) -> None:
        """Let it learn of something."""
        self._context.copy().run(listens, *news)

    def kill(self) -> None:
        """End the process at once."""
        self.world.note(self.name, "killed")
        self.line.cut()
        self.task.cancel()

    async def leave(self) -> None:
        """End the process in good order."""
        self.world.note(self.name, "leaves")
        self.leaving.set()
        _, pending = await asyncio.wait([self.task], timeout=HEALED_WITHIN_S)
        if pending:
            self.world.breaks(Broken(f"{self.name} does not come to its end"))
        self.world.note(self.name, "has left")


@contextmanager
def simulated_insides(world_log: Callable[[str, dict[str, Any]], None]) -> Iterator[None]:
    """Let sets keep their order and log lines go to `world_log`, during a block."""
    before, slot = structlog.get_config(), consumers.Slot

    def taken(logger: Any, method: str, event: dict[str, Any]) -> Any:
        world_log(method, event)
        raise structlog.DropEvent

    structlog.configure(
        processors=[taken],
        wrapper_class=structlog.make_filtering_bound_logger(30),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    OrderedSlot.numbers = OrderedConsumer.numbers = 0
    consumers.Slot = OrderedSlot  # type: ignore[misc]
    try:
        yield
    finally:
        consumers.Slot = slot  # type: ignore[misc]
        structlog.configure(**before)
