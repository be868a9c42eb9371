"""`/queues` and `/queues/{queue}`: list, inspect, and every action on a queue as a whole."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import translate
from re import compile as pattern
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta
from starlette.responses import Response

from toril.bullmq.ports.queues import QueueControl, QueueNames
from toril.bullmq.rules.actions import (
    Arguments,
    Clean,
    Concurrency,
    Drain,
    GlobalRateLimit,
    Hold,
    Nothing,
    Obliterate,
    PromoteJobs,
    QueueState,
    QueueSummary,
    RetryJobs,
    read_action,
)
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.errors import InvalidRequest, JobRefused, QueueNotFound, TorilError
from toril.queues.acknowledging import AT_ONCE, Acknowledging
from toril.queues.shapes import answers
from toril.web.openapi.description import DONE, About, Parameter, Reply
from toril.web.parameters import cursor_of, integer_in, read_cursor
from toril.web.request import Request
from toril.web.responses import NO_CONTENT, json_response
from toril.web.routing import Handler, Route

MAX_LIMIT = 1000
MAX_POINTS = 10_000
_MAX_BODY_BYTES = 64 * 1024
_PAGE = 1000
_AT_ONCE = 50
_SPLIT = (
    "jobs wait in both `wait` and `paused`, as after a pause by BullMQ 5: resume the queue with toril, since BullMQ 5 "
    "would lose those in `wait`"
)
_encode = msgspec.json.Encoder().encode


def _known(kind: Any, text: str, body: Any = None, *errors: type[TorilError]) -> About:
    """Return the description of a route whose queue must exist."""
    return About((Reply(kind, text),), body=body, body_required=False, errors=(QueueNotFound, *errors))


def _does(body: Any = None, *, required: bool = False) -> About:
    """Return the description of a route that answers without a body."""
    return About((DONE,), body=body, body_required=required)


_LIST = About(
    (Reply(answers.QueueList, "The queues that the token may see"),),
    parameters=(
        Parameter("match", str, "A glob that the names must match"),
        Parameter("limit", Annotated[int, Meta(ge=1, le=MAX_LIMIT)], "The most queues on a page; 100 by default"),
        Parameter("cursor", str, "The `next_cursor` of the page before"),
    ),
)
_POINT = Annotated[int, Meta(ge=-1, le=MAX_POINTS)]
_METRICS = About(
    (Reply(answers.QueueMetrics, "Totals, and a point per minute"),),
    parameters=(
        Parameter("start", Annotated[int, Meta(ge=0, le=MAX_POINTS)], "The first point; 0 is the newest"),
        Parameter("end", _POINT, "The last point; -1, the default, is the oldest"),
    ),
    errors=(QueueNotFound,),
)


class QueueActionRoutes:
    """Routes that list, read and control queues. `forget` is called with the names of removed queues."""

    def __init__(
        self,
        control: QueueControl,
        known: QueueNames,
        *,
        names: NameRules,
        forget: Callable[[str], None],
        acknowledging: Acknowledging = AT_ONCE,
    ) -> None:
        self._control = control
        self._known_names = known
        self._names = names
        self._forget = forget
        self._confirmed = acknowledging.handler

    def routes(self) -> list[Route]:
        """Return the routes."""
        read, manage = Right.QUEUES_READ, Right.QUEUES_MANAGE

        def route(method: str, path: str, handler: Handler, right: Right, about: About) -> Route:
            answered = handler if method == "GET" else self._confirmed(handler)
            return Route(f"/queues{path}", answered, method=method, right=right, own=True, about=about)

        return [
            route("GET", "", self.all, read, _LIST),
            route("GET", "/{queue}", self.one, read, _known(answers.Queue, "The queue")),
            route("POST", "/{queue}/pause", self.pause, manage, _does(Nothing)),
            route("POST", "/{queue}/resume", self.resume, manage, _does(Nothing)),
            route(
                "POST",
                "/{queue}/drain",
                self.drain,
                manage,
                _known(answers.Removed, "How many jobs were removed", Drain),
            ),
            route("POST", "/{queue}/clean", self.clean, manage, _known(answers.Cleaned, "What was removed", Clean)),
            route(
                "POST",
                "/{queue}/obliterate",
                self.obliterate,
                manage,
                _known(answers.Removed, "How many jobs were removed", Obliterate, JobRefused),
            ),
            route(
                "POST",
                "/{queue}/retry",
                self.retry,
                manage,
                _known(answers.Moved, "How many jobs were moved", RetryJobs),
            ),
            route(
                "POST",
                "/{queue}/promote",
                self.promote,
                manage,
                _known(answers.Moved, "How many jobs were moved", PromoteJobs),
            ),
            route(
                "GET",
                "/{queue}/concurrency",
                self.concurrency,
                read,
                About((Reply(answers.QueueConcurrency, "The limit"),)),
            ),
            route(
                "PUT",
                "/{queue}/concurrency",
                self.set_concurrency,
                manage,
                About((Reply(Concurrency, "The limit as set"),), body=Concurrency),
            ),
            route("DELETE", "/{queue}/concurrency", self.remove_concurrency, manage, _does()),
            route(
                "GET",
                "/{queue}/rate-limit",
                self.rate_limit,
                read,
                About((Reply(answers.QueueRateLimit, "The limit"),)),
            ),
            route(
                "PUT",
                "/{queue}/rate-limit",
                self.set_rate_limit,
                manage,
                About((Reply(GlobalRateLimit, "The limit as set"),), body=GlobalRateLimit),
            ),
            route("DELETE", "/{queue}/rate-limit", self.remove_rate_limit, manage, _does()),
            route("PUT", "/{queue}/rate-limit/hold", self.hold, manage, _does(Hold, required=True)),
            route("DELETE", "/{queue}/rate-limit/hold", self.let_go, manage, _does()),
            route("GET", "/{queue}/metrics", self.metrics, read, _METRICS),
        ]

    async def _known(self, request: Request) -> str:
        """Return the queue in the path, if it exists."""
        queue = self._named(request)
        if not await self._control.exists(queue):
            raise QueueNotFound
        return queue

    def _named(self, request: Request) -> str:
        self._names.check(request.queue)
        return request.queue

    async def all(self, request: Request) -> Response:
        """List queues by name."""
        query = request.query()
        limit = integer_in(query, "limit", 100, MAX_LIMIT)
        after = _read_cursor(query.get("cursor", ""))
        matches = pattern(translate(query.get("match") or "*")).match

        def visible(name: str) -> bool:
            return matches(name) is not None and request.caller.may(Right.QUEUES_READ, name)

        # One more than asked for says whether there are more.
        found = await self._next(after, limit + 1, visible)
        shown, more = found[:limit], len(found) > limit
        return _json(answers.QueueList(shown, cursor_of(shown[-1].name) if more else None))

    async def _next(self, after: str, most: int, visible: Callable[[str], bool]) -> list[QueueSummary]:
        """Return the next existing and visible queues after this name: `most`, a few more, or fewer at the end."""
        found: list[QueueSummary] = []
        at_once = min(most, _AT_ONCE)
        while True:
            names = await self._known_names.page(after, _PAGE)
            wanted = [name for name in names if visible(name)]
            for first in range(0, len(wanted), at_once):
                found += await self._control.summaries(wanted[first : first + at_once])
                if len(found) >= most:
                    return found
            if len(names) < _PAGE:
                return found
            after = names[-1]

    async def one(self, request: Request) -> Response:
        """Get a queue: its counts, limits and workers."""
        return _json(_shown(await self._control.describe(await self._known(request))))

    async def pause(self, request: Request) -> Response:
        """Pause a queue: no worker takes jobs from it."""
        queue = self._named(request)
        await _read(request, Nothing)
        await self._control.pause(queue)
        return NO_CONTENT

    async def resume(self, request: Request) -> Response:
        """Resume a paused queue."""
        queue = self._named(request)
        await _read(request, Nothing)
        await self._control.resume(queue)
        return NO_CONTENT

    async def drain(self, request: Request) -> Response:
        """Remove the waiting jobs of a queue."""
        asked = await _read(request, Drain)
        return _json(answers.Removed(await self._control.drain(await self._known(request), delayed=asked.delayed)))

    async def clean(self, request: Request) -> Response:
        """Remove old jobs of one state."""
        asked = await _read(request, Clean)
        queue = await self._known(request)
        ids = await self._control.clean(queue, asked.stored_state, asked.grace, asked.limit)
        return _json(answers.Cleaned(len(ids), [job_id.decode(errors="replace") for job_id in ids]))

    async def obliterate(self, request: Request) -> Response:
        """Remove a queue and all its jobs."""
        asked = await _read(request, Obliterate)
        queue = await self._known(request)
        removed = await self._control.obliterate(queue, force=asked.force)
        self._forget(queue)
        return _json(answers.Removed(removed))

    async def retry(self, request: Request) -> Response:
        """Retry the failed or completed jobs of a queue."""
        asked = await _read(request, RetryJobs)
        queue = await self._known(request)
        return _json(answers.Moved(await self._control.retry(queue, asked.state, asked.count, asked.timestamp)))

    async def promote(self, request: Request) -> Response:
        """Move the delayed jobs of a queue to waiting."""
        asked = await _read(request, PromoteJobs)
        return _json(answers.Moved(await self._control.promote(await self._known(request), asked.count)))

    async def concurrency(self, request: Request) -> Response:
        """Get how many jobs may be active at once across all workers."""
        return _json(answers.QueueConcurrency(await self._control.concurrency(self._named(request))))

    async def set_concurrency(self, request: Request) -> Response:
        """Set how many jobs may be active at once across all workers."""
        asked = await _read(request, Concurrency)
        await self._control.set_concurrency(self._named(request), asked.concurrency)
        return _json(asked)

    async def remove_concurrency(self, request: Request) -> Response:
        """Remove the limit on active jobs."""
        await self._control.set_concurrency(self._named(request), None)
        return NO_CONTENT

    async def rate_limit(self, request: Request) -> Response:
        """Get the rate limit of a queue, and for how long no job starts now."""
        state = await self._control.rate_limit(self._named(request))
        most, duration = (None, None) if state.limit is None else (state.limit.max, state.limit.duration)
        return _json(answers.QueueRateLimit(most, duration, state.ttl_ms))

    async def set_rate_limit(self, request: Request) -> Response:
        """Set how many jobs may start per how many milliseconds across all workers."""
        asked = await _read(request, GlobalRateLimit)
        await self._control.set_rate_limit(self._named(request), (asked.max, asked.duration))
        return _json(asked)

    async def remove_rate_limit(self, request: Request) -> Response:
        """Remove the rate limit of a queue."""
        await self._control.set_rate_limit(self._named(request), None)
        return NO_CONTENT

    async def hold(self, request: Request) -> Response:
        """Hold a queue: start none of its jobs for some time."""
        asked = await _read(request, Hold)
        await self._control.hold(self._named(request), asked.ms)
        return NO_CONTENT

    async def let_go(self, request: Request) -> Response:
        """End the hold of a queue."""
        await self._control.let_go(self._named(request))
        return NO_CONTENT

    async def metrics(self, request: Request) -> Response:
        """Get how many jobs completed and failed per minute, as BullMQ counts them."""
        query = request.query()
        start, end = (
            integer_in(query, name, default, MAX_POINTS, least=default) for name, default in (("start", 0), ("end", -1))
        )
        queue = await self._known(request)
        completed = await self._control.metrics(queue, "completed", start, end)
        failed = await self._control.metrics(queue, "failed", start, end)
        return _json(answers.QueueMetrics(completed, failed))


async def _read(request: Request, kind: type[Arguments]) -> Arguments:
    return read_action(await request.json_text(_MAX_BODY_BYTES), kind)


def _shown(state: QueueState) -> answers.Queue:
    """Return the state of a queue as the API shows it."""
    return answers.Queue(
        name=state.name,
        counts=state.counts,
        paused=state.paused,
        pausedSince=state.paused_since_ms,
        concurrency=state.concurrency,
        rateLimit=state.rate_limit,
        workers=state.workers,
        oldestWaitingAge=state.oldest_waiting_age_ms,
        warnings=[_SPLIT] if state.split else UNSET,
    )


def _json(value: object) -> Response:
    return json_response(_encode(value))


def _read_cursor(cursor: str) -> str:
    try:
        return read_cursor(cursor)
    except ValueError as exc:
        raise InvalidRequest(f"Invalid cursor {cursor[:100]}", field="cursor") from exc
