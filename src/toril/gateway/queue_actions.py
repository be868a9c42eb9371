"""`/queues` and `/queues/{queue}`: list, inspect, and every action on a queue as a whole."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from fnmatch import translate
from re import compile as pattern
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from toril.core.access import Right
from toril.core.actions import (
    Asked,
    Clean,
    Concurrency,
    Drain,
    GlobalRateLimit,
    Hold,
    Nothing,
    Obliterate,
    PromoteJobs,
    QueueSummary,
    RetryJobs,
    read_action,
)
from toril.core.errors import InvalidRequest, JobRefused, QueueNotFound, TorilError
from toril.core.ports.queues import QueueControl, QueueNames
from toril.core.queue_name import NameRules
from toril.gateway import shapes, wire
from toril.gateway.description import DONE, About, Parameter, Reply
from toril.gateway.routing import Access, Answer, Handler, Request, Route

MAX_LIMIT = 1000
MAX_POINTS = 10_000
_MAX_BODY_BYTES = 64 * 1024
_PAGE = 1000
_AT_ONCE = 50
_encode = msgspec.json.Encoder().encode


def _known(kind: Any, text: str, body: Any = None, *errors: type[TorilError]) -> About:
    """Of a route that wants the queue to be there."""
    return About((Reply(kind, text),), body=body, body_required=False, errors=(QueueNotFound, *errors))


def _does(body: Any = None, *, required: bool = False) -> About:
    """Of a route that does something, and has nothing to say of it."""
    return About((DONE,), body=body, body_required=required)


_LIST = About(
    (Reply(shapes.QueueList, "Those that the token may see"),),
    parameters=(
        Parameter("match", str, "A glob that the names must match"),
        Parameter("limit", Annotated[int, Meta(ge=1, le=MAX_LIMIT)], "How many at most; 100 unless told"),
        Parameter("cursor", str, "The `next_cursor` of the page before"),
    ),
)
_POINT = Annotated[int, Meta(ge=-1, le=MAX_POINTS)]
_METRICS = About(
    (Reply(shapes.QueueMetrics, "Totals, and a point per minute"),),
    parameters=(
        Parameter("start", Annotated[int, Meta(ge=0, le=MAX_POINTS)], "The first point; 0 is the newest"),
        Parameter("end", _POINT, "The last point; -1, the oldest there is, unless told"),
    ),
    errors=(QueueNotFound,),
)


class QueueActionRoutes:
    """What BullMQ's Queue does, over HTTP. `forget` is told of queues that are gone."""

    def __init__(
        self, control: QueueControl, known: QueueNames, *, names: NameRules, forget: Callable[[str], None]
    ) -> None:
        self._control = control
        self._known_names = known
        self._names = names
        self._forget = forget

    def routes(self) -> list[Route]:
        """The routes of this module."""
        read, manage = Right.QUEUES_READ, Right.QUEUES_MANAGE

        def route(method: str, path: str, handler: Handler, right: Right, about: About) -> Route:
            return Route(method, f"/queues{path}", Access.TOKEN, handler, right, own=True, about=about)

        return [
            route("GET", "", self.all, read, _LIST),
            route("GET", "/{queue}", self.one, read, _known(shapes.Queue, "The queue")),
            route("POST", "/{queue}/pause", self.pause, manage, _does(Nothing)),
            route("POST", "/{queue}/resume", self.resume, manage, _does(Nothing)),
            route(
                "POST",
                "/{queue}/drain",
                self.drain,
                manage,
                _known(shapes.Removed, "How many jobs were removed", Drain),
            ),
            route("POST", "/{queue}/clean", self.clean, manage, _known(shapes.Cleaned, "What was removed", Clean)),
            route(
                "POST",
                "/{queue}/obliterate",
                self.obliterate,
                manage,
                _known(shapes.Removed, "How many jobs were removed", Obliterate, JobRefused),
            ),
            route(
                "POST",
                "/{queue}/retry",
                self.retry,
                manage,
                _known(shapes.Moved, "How many jobs were moved", RetryJobs),
            ),
            route(
                "POST",
                "/{queue}/promote",
                self.promote,
                manage,
                _known(shapes.Moved, "How many jobs were moved", PromoteJobs),
            ),
            route(
                "GET",
                "/{queue}/concurrency",
                self.concurrency,
                read,
                About((Reply(shapes.QueueConcurrency, "The limit"),)),
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
                "GET", "/{queue}/rate-limit", self.rate_limit, read, About((Reply(shapes.QueueRateLimit, "The limit"),))
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
        """The queue in the path, if it exists."""
        queue = self._named(request)
        if not await self._control.exists(queue):
            raise QueueNotFound
        return queue

    def _named(self, request: Request) -> str:
        self._names.check(request.queue)
        return request.queue

    async def all(self, request: Request) -> Answer:
        """The queues that the caller may see, by name: `?match=` (a glob), `?limit=`, `?cursor=`."""
        query = request.query()
        limit = _whole(query, "limit", 100, MAX_LIMIT)
        after = _decoded(query.get("cursor", ""))
        matches = pattern(translate(query.get("match") or "*")).match

        def visible(name: str) -> bool:
            return matches(name) is not None and request.caller.may(Right.QUEUES_READ, name)

        # One more than asked for says whether there are more.
        found = await self._next(after, limit + 1, visible)
        shown, more = found[:limit], len(found) > limit
        return _json({"queues": shown, "next_cursor": _encoded(shown[-1].name) if more else None})

    async def _next(self, after: str, most: int, visible: Callable[[str], bool]) -> list[QueueSummary]:
        """Return the next queues behind this name that are there and visible: `most`, or a few more, if there are."""
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

    async def one(self, request: Request) -> Answer:
        """A queue as it is now."""
        return _json((await self._control.describe(await self._known(request))).as_json())

    async def pause(self, request: Request) -> Answer:
        """No worker takes jobs of this queue any more."""
        queue = self._named(request)
        await _read(request, Nothing)
        await self._control.pause(queue)
        return wire.NO_CONTENT

    async def resume(self, request: Request) -> Answer:
        """Workers take jobs again."""
        queue = self._named(request)
        await _read(request, Nothing)
        await self._control.resume(queue)
        return wire.NO_CONTENT

    async def drain(self, request: Request) -> Answer:
        """Remove what waits."""
        asked = await _read(request, Drain)
        return _json({"removed": await self._control.drain(await self._known(request), delayed=asked.delayed)})

    async def clean(self, request: Request) -> Answer:
        """Remove old jobs of a state."""
        asked = await _read(request, Clean)
        queue = await self._known(request)
        ids = await self._control.clean(queue, asked.stored_state, asked.grace, asked.limit)
        return _json({"removed": len(ids), "ids": [job_id.decode(errors="replace") for job_id in ids]})

    async def obliterate(self, request: Request) -> Answer:
        """Remove the queue and all its jobs."""
        asked = await _read(request, Obliterate)
        queue = await self._known(request)
        removed = await self._control.obliterate(queue, force=asked.force)
        self._forget(queue)
        return _json({"removed": removed})

    async def retry(self, request: Request) -> Answer:
        """Move finished jobs back to waiting."""
        asked = await _read(request, RetryJobs)
        queue = await self._known(request)
        return _json({"moved": await self._control.retry(queue, asked.state, asked.count, asked.timestamp)})

    async def promote(self, request: Request) -> Answer:
        """Move delayed jobs to waiting."""
        asked = await _read(request, PromoteJobs)
        return _json({"moved": await self._control.promote(await self._known(request), asked.count)})

    async def concurrency(self, request: Request) -> Answer:
        """How many jobs may be active at once, everywhere."""
        return _json({"concurrency": await self._control.concurrency(self._named(request))})

    async def set_concurrency(self, request: Request) -> Answer:
        """Set how many jobs may be active at once, everywhere."""
        asked = await _read(request, Concurrency)
        await self._control.set_concurrency(self._named(request), asked.concurrency)
        return _json(asked)

    async def remove_concurrency(self, request: Request) -> Answer:
        """Let as many jobs be active at once as there are workers for."""
        await self._control.set_concurrency(self._named(request), None)
        return wire.NO_CONTENT

    async def rate_limit(self, request: Request) -> Answer:
        """The queue's rate limit, and for how long nothing starts now."""
        state = await self._control.rate_limit(self._named(request))
        return _json({**(state.limit or {"max": None, "duration": None}), "ttl": state.ttl_ms})

    async def set_rate_limit(self, request: Request) -> Answer:
        """Set how many jobs may start in how many milliseconds, everywhere."""
        asked = await _read(request, GlobalRateLimit)
        await self._control.set_rate_limit(self._named(request), (asked.max, asked.duration))
        return _json(asked)

    async def remove_rate_limit(self, request: Request) -> Answer:
        """Remove the queue's rate limit."""
        await self._control.set_rate_limit(self._named(request), None)
        return wire.NO_CONTENT

    async def hold(self, request: Request) -> Answer:
        """Let nothing start for a while."""
        asked = await _read(request, Hold)
        await self._control.hold(self._named(request), asked.ms)
        return wire.NO_CONTENT

    async def let_go(self, request: Request) -> Answer:
        """Let jobs start again before a hold is over."""
        await self._control.let_go(self._named(request))
        return wire.NO_CONTENT

    async def metrics(self, request: Request) -> Answer:
        """BullMQ's metrics: how many jobs completed and failed, per minute. `?start=` and `?end=` choose points."""
        query = request.query()
        start, end = _whole(query, "start", 0, MAX_POINTS, least=0), _whole(query, "end", -1, MAX_POINTS, least=-1)
        queue = await self._known(request)
        kinds = {kind: await self._control.metrics(queue, kind, start, end) for kind in ("completed", "failed")}
        return _json(kinds)


async def _read(request: Request, kind: type[Asked]) -> Asked:
    return read_action(await request.json(_MAX_BODY_BYTES), kind)


def _json(value: object) -> Answer:
    return wire.json_answer(_encode(value))


def _whole(query: dict[str, str], field: str, default: int, most: int, least: int = 1) -> int:
    text = query.get(field) or str(default)
    if not text.removeprefix("-").isdecimal() or not text.isascii() or not least <= int(text) <= most:
        raise InvalidRequest(f"Invalid {field} {text[:100]}, must be from {least} to {most}", field=field)
    return int(text)


def _encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _decoded(cursor: str) -> str:
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as exc:
        raise InvalidRequest(f"Invalid cursor {cursor[:100]}", field="cursor") from exc
