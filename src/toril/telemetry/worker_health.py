"""Counts how the attempts at registered workers end, and tells which workers fail and which have recovered.

Successes are only reported while failures of their queue are known. Workers with failures are marked in Redis, and only
marked ones are looked at, so a healthy worker costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog
from msgspec import Struct

from toril.core.errors import StoreError
from toril.core.operator_event import OperatorEvent
from toril.core.ports import Now
from toril.core.times import moment_text
from toril.telemetry.conditions import FleetConditions

log = structlog.get_logger(__name__)

_EVERY_S = 1.0
_TOLD_FOR_S = 600.0
_LOOK_AT_ALL = 60


class _Ends(Struct):
    failures: int = 0
    succeeded: bool = False


class WorkerHealth:
    """The health of the workers that this process sends jobs to. `queues` returns their queues."""

    def __init__(
        self,
        conditions: FleetConditions,
        tell: Callable[[OperatorEvent], None],
        queues: Callable[[], set[str]],
        now: Now,
    ) -> None:
        self._conditions = conditions
        self._tell = tell
        self._queues = queues
        self._now = now
        self._ends: dict[str, _Ends] = {}
        self._watched: set[str] = set()
        self._well: list[str] = []

    def attempted(self, queue: str, *, succeeded: bool) -> None:
        """Note how an attempt ended."""
        ends = self._ends.get(queue)
        if succeeded and ends is None and queue not in self._watched:
            return
        if ends is None:
            ends = self._ends[queue] = _Ends()
        if succeeded:
            ends.failures, ends.succeeded = 0, True
        else:
            ends.failures += 1

    async def run(self) -> None:
        """Report once a second until cancelled; once a minute, look at what other instances have found."""
        turn = 0
        while True:
            try:
                if turn % _LOOK_AT_ALL == 0:
                    await self.look()
                await self.report()
                turn += 1
            except StoreError as exc:
                log.debug("workers.not_watched", error=exc.message)
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        """Watch the workers that an instance has marked. Raises `StoreError`."""
        marked = await self._conditions.marked("worker")
        self._watched = marked & self._queues() if marked else set()

    async def report(self) -> None:
        """Report what has ended since the last time. Raises `StoreError`; the next report then includes it."""
        failed = [queue for queue, ends in self._ends.items() if ends.failures]
        if failed:
            # Before they are counted: if this process crashes in between, another one looks at them.
            await self._conditions.mark("worker", failed)
        for queue in {*self._ends, *self._watched}:
            # Taken out first: what ends during the call belongs to the next report.
            ends = self._ends.pop(queue, None) or _Ends()
            self._watched.add(queue)
            try:
                known = await self._conditions.row("worker", queue, ends.failures, succeeded=ends.succeeded)
            except StoreError:
                self._put_back(queue, ends)
                raise
            if known.row:
                self._watched.add(queue)
            else:
                self._watched.discard(queue)
            data = {"worker": queue, "queue": queue, "since": moment_text(known.since_s)}
            if known.active:
                self._tell(OperatorEvent("worker.failing", queue, known.since_s, data | {"failures": known.row}))
            elif known.ended_s > self._now() - _TOLD_FOR_S:
                self._tell(OperatorEvent("worker.recovered", queue, known.ended_s, data))
            elif not known.row:
                self._well.append(queue)
        if self._well:
            await self._conditions.unmark("worker", self._well, _TOLD_FOR_S)
            self._well.clear()

    def _put_back(self, queue: str, ends: _Ends) -> None:
        """Add what was not reported to what has ended since."""
        later = self._ends.get(queue)
        if later is None:
            self._ends[queue] = ends
        elif not later.succeeded:
            later.failures += ends.failures
            later.succeeded = ends.succeeded
