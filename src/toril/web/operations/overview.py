"""The overview: statistics of every door, what needs attention, the longest queues, and why attempts failed.

Everything is computed from measurements that exist anyway. A caller sees what its token allows: the totals of a door
are those of the queues that the caller may see.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import UNSET, Struct

from toril.core.access import Caller, Right
from toril.core.errors import unwrapped
from toril.core.metrics import QueueDepth
from toril.core.ports import Now
from toril.core.times import moment_text
from toril.telemetry.failures import STALLED, Failure, FleetFailures
from toril.telemetry.recent_attempts import PointsReader, RecentAttemptCounts
from toril.telemetry.rules.points import FINISHED, WINDOWS, door_scope, queue_scope
from toril.telemetry.rules.series import added, counted, series
from toril.telemetry.watched_depths import WatchedDepths
from toril.web.operations.attention import (
    Working,
    about_attempts,
    about_depth,
    about_stalls,
    is_in_doubt,
    is_late,
)
from toril.web.operations.stats_shapes import (
    Door,
    Doors,
    DoorStats,
    Fact,
    FailureReason,
    MostWaiting,
    Place,
    Stats,
)

_MOST_SUMMED = 200
_MOST_WAITING = 10
_MOST_REASONS = 20
_MOST_FACTS = 50
_MOST_IN_DOUBT = 20
_HOUR = WINDOWS["1h"]


class DoorKnowledge(Protocol):
    """A reader of what a door has beside its queues: workers, upstreams or targets."""

    door: Door

    async def facts(self, caller: Caller) -> list[Fact]:
        """Return the facts about this door that the caller may see."""
        ...

    async def sizes(self, caller: Caller) -> dict[str, int]:
        """Return how many workers, upstreams or targets of this door the caller may see."""
        ...


class OverviewSources(Struct, frozen=True):
    """The sources of the overview.

    `place` returns the door of a queue, `working` whether a queue is worked on, `paused_since_s` since when it is
    paused, `doors` are the doors of this instance, and `faults` returns what keeps this instance from moving work.
    """

    points: PointsReader
    recent: RecentAttemptCounts
    failures: FleetFailures
    depths: WatchedDepths
    place: Callable[[str], Place]
    working: Callable[[str], Awaitable[Working]]
    paused_since_s: Callable[[str], Awaitable[float | None]]
    doors: Sequence[DoorKnowledge]
    faults: Callable[[], Awaitable[list[str]]]
    now: Now


class Overview:
    """Makes the overview for a caller."""

    def __init__(self, sources: OverviewSources) -> None:
        self._sources = sources

    def sees(self, caller: Caller, queue: str) -> bool:
        """Return True if this caller may see the statistics of a queue: for a target's, by the rights on the target."""
        place = self._sources.place(queue)
        if place.door == "delivery":
            return caller.may(Right.TARGETS_READ, place.name)
        return caller.may(Right.QUEUES_READ, queue)

    async def of(self, caller: Caller, window: str, door: str | None) -> Stats:
        """Return the overview of a window, of one door if asked for.

        Raises:
            StoreError: the store did not answer.
        """
        sources, now_s = self._sources, self._sources.now()
        chosen = WINDOWS[window]
        depths = {
            depth.queue: depth
            for depth in await sources.depths.look()
            if self.sees(caller, depth.queue) and door in {None, sources.place(depth.queue).door}
        }
        known = [one for one in sources.doors if door in {None, one.door}]
        failures = await sources.failures.recent(lambda queue: self.sees(caller, queue))
        failures = [one for one in failures if door in {None, sources.place(one.queue).door}]
        with unwrapped():
            async with asyncio.TaskGroup() as tasks:
                shown = {one.door: tasks.create_task(self._door(caller, one, window, depths)) for one in known}
                facts = tasks.create_task(self._facts(caller, known, depths, failures))
                waiting = tasks.create_task(self._most_waiting(depths))
        doors = {name: found for name, task in shown.items() if (found := task.result()) is not None}
        attention = [one for one in facts.result() if one.kind not in ("paused", "held")]
        return Stats(
            window=window,
            step_s=chosen.resolution.step_s,
            from_=moment_text(chosen.first(now_s) * chosen.resolution.step_s, "seconds"),
            doors=msgspec.convert(doors, Doors, from_attributes=True),
            left_out=[name for name in shown if name not in doors],
            attention=attention[:_MOST_FACTS],
            paused=[one for one in facts.result() if one.kind in ("paused", "held")][:_MOST_FACTS],
            most_waiting=waiting.result(),
            reasons=self._reasons(caller, failures),
        )

    async def _door(
        self, caller: Caller, door: DoorKnowledge, window: str, depths: Mapping[str, QueueDepth]
    ) -> DoorStats | None:
        """Return the statistics of a door: of all its queues, or the sum of the queues that the caller may see.

        None if those are too many to sum, or if the caller may see none of them.
        """
        sources, now_s = self._sources, self._sources.now()
        chosen = WINDOWS[window]
        right = Right.TARGETS_READ if door.door == "delivery" else Right.QUEUES_READ
        if not caller.may(right):
            return None
        own = [depth for depth in depths.values() if sources.place(depth.queue).door == door.door]
        if caller.all_queues:
            scopes = [door_scope(door.door)]
        elif len(own) <= _MOST_SUMMED:
            scopes = [queue_scope(depth.queue) for depth in own]
        else:
            return None
        points = await sources.points.read(scopes, chosen, now_s)
        found = series(added(list(points.values()), chosen.points))
        oldest_s = max((depth.oldest_waiting_s for depth in own if depth.waiting and not depth.paused), default=None)
        sizes = await door.sizes(caller)
        return DoorStats(
            accepted=found.accepted,
            started=found.started,
            finished=found.finished,
            failed=found.failed,
            attempts=found.attempts,
            attempts_failed=found.attempts_failed,
            backlog=sum(depth.waiting + depth.jobs.get("delayed", 0) for depth in own),
            oldest_ms=None if oldest_s is None else round(oldest_s * 1000),
            late=any(is_late(depth) for depth in own),
            wait_ms=found.wait_ms,
            attempt_ms=found.attempt_ms,
            queues=len(own) if door.door == "queues" else UNSET,
            workers=sizes.get("workers", UNSET),
            upstreams=sizes.get("upstreams", UNSET),
            targets=sizes.get("targets", UNSET),
        )

    async def _facts(
        self,
        caller: Caller,
        doors: Sequence[DoorKnowledge],
        depths: Mapping[str, QueueDepth],
        failures: Sequence[Failure],
    ) -> list[Fact]:
        """Return what needs attention, facts about the whole instance first."""
        sources = self._sources
        facts: list[Fact | None] = []
        if faults := await sources.faults():
            facts.append(Fact("not_ready", "instance", "This instance", None, "; ".join(faults)))
        for door in doors:
            facts += await door.facts(caller)
        facts += await self._failing(failures)
        for failure in failures:
            facts.append(about_stalls(sources.place(failure.queue), failure, sources.now()))
        in_doubt = sorted(filter(is_in_doubt, depths.values()), key=lambda depth: -depth.oldest_waiting_s)
        working = {depth.queue: await sources.working(depth.queue) for depth in in_doubt[:_MOST_IN_DOUBT]}
        for depth in [depth for depth in depths.values() if depth.paused][:_MOST_FACTS]:
            working[depth.queue] = Working(True, 0, await sources.paused_since_s(depth.queue))
        for depth in sorted(depths.values(), key=lambda depth: -depth.oldest_waiting_s):
            facts.append(about_depth(sources.place(depth.queue), depth, working.get(depth.queue, Working(True))))
        # A target whose breaker is open fails for that reason; it is said once.
        seen: dict[tuple[str, str, str], Fact] = {}
        for fact in facts:
            if fact is not None:
                about = "fails" if fact.kind in ("breaker_open", "target_failing") else fact.kind
                seen.setdefault((about, fact.what, fact.name), fact)
        return list(seen.values())

    async def _failing(self, failures: Sequence[Failure]) -> list[Fact | None]:
        """Return the queues that fail, of those with the most failures in the last hour."""
        last: dict[str, Failure] = {}
        for one in failures:
            if one.reason != STALLED and (one.queue not in last or one.last_s > last[one.queue].last_s):
                last[one.queue] = one
        queues = list(last)[:_MOST_IN_DOUBT]
        counts = await self._sources.recent.of(queues)
        return [
            about_attempts(self._sources.place(queue), counts[queue].made, counts[queue].failed, last[queue])
            for queue in queues
        ]

    async def _most_waiting(self, depths: Mapping[str, QueueDepth]) -> list[MostWaiting]:
        some = [
            depth for depth in depths.values() if depth.waiting and self._sources.place(depth.queue).door != "delivery"
        ]
        some = sorted(some, key=lambda depth: (-depth.waiting, depth.queue))[:_MOST_WAITING]
        points = await self._sources.points.read(
            [queue_scope(depth.queue) for depth in some], _HOUR, self._sources.now()
        )
        return [
            MostWaiting(
                depth.queue,
                depth.waiting,
                depth.jobs.get("active", 0),
                round(depth.oldest_waiting_s * 1000),
                counted(points[queue_scope(depth.queue)], FINISHED),
            )
            for depth in some
        ]

    def _reasons(self, caller: Caller, failures: Sequence[Failure]) -> list[FailureReason]:
        """Return why attempts failed, for queues whose jobs the caller may read: the jobs have the same texts."""
        found = []
        for one in failures:
            place = self._sources.place(one.queue)
            if place.door == "delivery":
                may = caller.may(Right.DELIVERIES_READ, place.name)
            else:
                may = caller.may(Right.JOBS_READ, one.queue)
            if may:
                found.append(FailureReason(one.reason, place.name, place.door, one.times, moment_text(one.last_s)))
        return found[:_MOST_REASONS]
