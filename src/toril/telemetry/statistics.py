"""Adds the measurements of this process to the statistics of the fleet, every ten seconds.

Nothing is counted for it where things happen. Points of a minute are written each time, coarser ones less often. With
more than a hundred busy queues each is written once a minute, so that the cost per job stays small where many queues
have few jobs each. What a process has not written when it is killed is lost; one that ends writes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Protocol

import structlog

from toril.core.ports import Now
from toril.telemetry.failures import Failures, FleetFailures
from toril.telemetry.prometheus_meter import PrometheusMeter
from toril.telemetry.rules.increments import COUNTED, Increments
from toril.telemetry.rules.points import (
    FIVE_MINUTES,
    HOURS,
    MINUTES,
    RESOLUTIONS,
    Counts,
    Resolution,
    Scope,
    add,
    door_scope,
    queue_scope,
)

log = structlog.get_logger(__name__)

EVERY_S = 10.0
_ROUNDS = {MINUTES: 1, FIVE_MINUTES: 6, HOURS: 30}
"""Every how many rounds the points of a resolution are written."""
_FEW = 100
_FEW_SERIES = 1_000
_SPREAD = 6
"""Where there are many queues, each is looked at and written once in so many times."""
_CHUNK = 500
_MOST_UNSENT = 50_000


class PointsWriter(Protocol):
    """Adds to the points of the fleet."""

    async def add(
        self, resolution: Resolution, points: Mapping[tuple[Scope, int], Counts]
    ) -> Mapping[tuple[Scope, int], Counts]:
        """Add counts by scope and number of the point; return those to be added later. Never raises."""
        ...


class Statistics:
    """Reads the meter, and writes to the points of the fleet.

    Args:
        meter: what is measured here. What it has at the beginning was written by the process before.
        points: those of the fleet.
        failures: why attempts failed here.
        fleets_failures: why they failed in the fleet.
        door_of: the door that a queue belongs to.
        now: the wall clock.
    """

    def __init__(
        self,
        meter: PrometheusMeter,
        points: PointsWriter,
        failures: Failures,
        fleets_failures: FleetFailures,
        door_of: Callable[[str], str],
        now: Now,
    ) -> None:
        self._meter = meter
        self._points = points
        self._failures = failures
        self._fleets_failures = fleets_failures
        self._door_of = door_of
        self._now = now
        self._increments = Increments({metric: dict(meter.series(metric)) for metric in COUNTED})
        self._next = dict.fromkeys(COUNTED, 0)
        self._unsent: dict[Resolution, dict[tuple[Scope, int], Counts]] = {one: {} for one in RESOLUTIONS}
        self._round = 0
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Write every ten seconds, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Write what is due now. Never raises: what the store does not take is kept, or lost."""
        async with self._writing:
            self._round += 1
            await self._take(_SPREAD)
            for resolution, every in _ROUNDS.items():
                await self._send(resolution, _due(len(self._unsent[resolution]), every, self._round))
            await self._fleets_failures.add(self._failures.taken())

    async def flush(self) -> None:
        """Write everything now, at all resolutions; does not raise, as `write`."""
        async with self._writing:
            await self._take(1)
            for resolution, unsent in self._unsent.items():
                await self._send(resolution, len(unsent))
            await self._fleets_failures.add(self._failures.taken())

    async def _send(self, resolution: Resolution, most: int) -> None:
        """Write so many points, those that have waited longest."""
        unsent = self._unsent[resolution]
        sent = {place: unsent.pop(place) for place in list(islice(unsent, most))}
        if sent:
            for place, counts in (await self._points.add(resolution, sent)).items():
                add(unsent.setdefault(place, {}), counts)

    async def _take(self, spread: int) -> None:
        """Add what has come to what is to be written: of many series, a part. Other tasks run in between."""
        found: dict[str, Counts] = {}
        for metric in COUNTED:
            series = self._meter.series(metric)
            first = self._next[metric] if self._next[metric] < len(series) and spread > 1 else 0
            end = first + max(_FEW_SERIES, -(-len(series) // spread)) if spread > 1 else len(series)
            self._next[metric] = end
            for start in range(first, min(end, len(series)), _CHUNK):
                some = series[start : min(start + _CHUNK, end)]
                for queue, counts in self._increments.since(metric, some).items():
                    add(found.setdefault(queue, {}), counts)
                await asyncio.sleep(0)
        now_s = self._now()
        doors: dict[str, Counts] = {}
        for queue, counts in found.items():
            self._keep(queue_scope(queue), now_s, counts)
            add(doors.setdefault(self._door_of(queue), {}), counts)
        for door, counts in doors.items():
            self._keep(door_scope(door), now_s, counts)

    def _keep(self, scope: Scope, now_s: float, counts: Counts) -> None:
        for resolution, unsent in self._unsent.items():
            add(unsent.setdefault((scope, resolution.slot(now_s)), {}), counts)
            if len(unsent) > _MOST_UNSENT:  # the store is away for long: the oldest is forgotten
                del unsent[next(iter(unsent))]


def _due(waiting: int, every: int, number: int) -> int:
    """Return how many of the waiting points to write in a round: all of them, or if there are many a part each time."""
    if waiting > _FEW:
        return -(-waiting // (_SPREAD * every))
    return 0 if number % every else waiting
