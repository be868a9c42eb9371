"""`GET /stats`: statistics of all doors, of one queue, or of several queues."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta
from starlette.responses import Response

from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Caller, Right
from toril.core.errors import Forbidden, InvalidRequest
from toril.core.ports import Now
from toril.core.times import moment_text
from toril.telemetry.recent_attempts import PointsReader
from toril.telemetry.rules.points import FINISHED, WINDOWS, queue_scope
from toril.telemetry.rules.series import counted, series
from toril.web.openapi.description import About, Parameter, Reply
from toril.web.operations.overview import Overview
from toril.web.operations.stats_shapes import Door, FinishedOfQueue, RegisteredWorker, Stats
from toril.web.request import Request
from toril.web.responses import json_response
from toril.web.routing import Route

MOST_QUEUES = 50
_WINDOW = Literal["1h", "24h", "7d"]
_ABOUT = About(
    (Reply(Stats, "The overview; with `queue` or `queues`, the series of those queues"),),
    parameters=(
        Parameter(
            "window", _WINDOW, "The period, in points of a minute, five minutes or an hour; the last hour by default"
        ),
        Parameter("door", Door, "Only this door"),
        Parameter("queue", Annotated[str, Meta(min_length=1)], "Only this queue, with its worker"),
        Parameter(
            "queues", Annotated[str, Meta(min_length=1)], f"At most {MOST_QUEUES}, with commas: what they finish"
        ),
    ),
)
WorkerOf = Callable[[str], Awaitable[RegisteredWorker | None]]
_encode = msgspec.json.Encoder().encode


class StatsRoutes:
    """The route that shows statistics.

    Args:
        overview: tells how all doors fare, and who may see which queue.
        points: the statistics of the fleet.
        worker_of: returns the worker that is registered for a queue.
        names: what a queue may be called.
        now: the wall clock.
    """

    def __init__(
        self, overview: Overview, points: PointsReader, worker_of: WorkerOf, *, names: NameRules, now: Now
    ) -> None:
        self._overview = overview
        self._points = points
        self._worker_of = worker_of
        self._names = names
        self._now = now

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/stats", self.stats, right=Right.QUEUES_READ, own=True, about=_ABOUT)]

    async def stats(self, request: Request) -> Response:
        """Get statistics over time: of all doors, of one queue, or of several queues."""
        query = request.query()
        window = query.get("window") or "1h"
        if window not in WINDOWS:
            raise InvalidRequest(f"Invalid window: {window[:50]}, must be 1h, 24h or 7d", field="window")
        door = query.get("door") or None
        if door is not None and door not in get_args(Door):
            raise InvalidRequest(f"Invalid door: {door[:50]}, must be queues, proxy or delivery", field="door")
        if query.get("queue"):
            found = await self._one(request.caller, query["queue"], window)
        elif query.get("queues"):
            found = await self._some(request.caller, query["queues"], window)
        else:
            found = await self._overview.of(request.caller, window, door)
        return json_response(_encode(found))

    async def _one(self, caller: Caller, queue: str, window: str) -> Stats:
        self._check(caller, queue)
        chosen, now_s = WINDOWS[window], self._now()
        scope = queue_scope(queue)
        found = series((await self._points.read([scope], chosen, now_s))[scope])
        worker = await self._worker_of(queue) if caller.may(Right.WORKERS_READ, queue) else None
        return Stats(
            window=window,
            step_s=chosen.resolution.step_s,
            from_=moment_text(chosen.first(now_s) * chosen.resolution.step_s, "seconds"),
            accepted=found.accepted,
            started=found.started,
            finished=found.finished,
            failed=found.failed,
            attempts=found.attempts,
            attempts_failed=found.attempts_failed,
            wait_ms=found.wait_ms,
            attempt_ms=found.attempt_ms,
            worker=worker,
        )

    async def _some(self, caller: Caller, text: str, window: str) -> Stats:
        queues = list(dict.fromkeys(queue for queue in text.split(",") if queue))
        if len(queues) > MOST_QUEUES:
            raise InvalidRequest(f"Too many queues: {len(queues)}, at most {MOST_QUEUES}", field="queues")
        for queue in queues:
            self._check(caller, queue)
        chosen = WINDOWS[window]
        points = await self._points.read(map(queue_scope, queues), chosen, self._now())
        return Stats(
            step_s=chosen.resolution.step_s,
            queues={queue: FinishedOfQueue(counted(points[queue_scope(queue)], FINISHED)) for queue in queues},
        )

    def _check(self, caller: Caller, queue: str) -> None:
        self._names.check(queue)
        if not self._overview.sees(caller, queue):
            raise Forbidden
