"""`/queues/{queue}/schedulers`: sets, reads and removes job schedulers."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import Response

from toril.bullmq.ports.jobs import SchedulerStore
from toril.bullmq.ports.queues import QueueNames
from toril.bullmq.rules.queue_name import NameRules
from toril.bullmq.rules.scheduler import SchedulerSpec, StoredScheduler, check_scheduler_id, next_times, read_scheduler
from toril.bullmq.time_zones import read_zone
from toril.core.access import Right
from toril.core.errors import SchedulerNotFound
from toril.core.redaction import Redaction
from toril.core.stored_job import integer_json, read_options, text_json
from toril.queues import job_json
from toril.queues.acknowledging import AT_ONCE, Acknowledging
from toril.queues.queues import WINDOW, window
from toril.queues.shapes import answers
from toril.web.openapi.description import DONE, About, Parameter, Reply
from toril.web.parameters import integer_in
from toril.web.request import Request
from toril.web.responses import NO_CONTENT, json_response
from toril.web.routing import Handler, Route

_TEXTS = ("pattern", "tz")
_INTEGERS = ("every", "limit", "startDate", "endDate", "offset")


MOST_QUEUES = 10_000
"""How many queues are searched for schedulers at most, the first ones by name."""
_MOST_BEFORE = 1000
_MOST_TIMES = 100
_PAGE = 1000
_NEXT = Parameter(
    "next",
    Annotated[int, Meta(ge=0, le=_MOST_TIMES)],
    "How many of its next times to add as `nextTimes`; 0 by default",
)
_OF_ALL_QUEUES = About(
    (Reply(answers.SchedulersOfQueues, "A page"),),
    parameters=(
        Parameter("queue", str, "Only the schedulers of this queue"),
        Parameter("start", Annotated[int, Meta(ge=0, le=_MOST_BEFORE)], "The first item of the page, counted from 0"),
        Parameter("length", Annotated[int, Meta(ge=1, le=100)], "How many items are on a page; 10 by default"),
    ),
)


class SchedulerRoutes:
    """Routes that set, read and remove job schedulers."""

    def __init__(
        self,
        schedulers: SchedulerStore,
        known: QueueNames,
        *,
        names: NameRules,
        max_body_bytes: int,
        acknowledging: Acknowledging = AT_ONCE,
    ) -> None:
        self._schedulers = schedulers
        self._known_names = known
        self._names = names
        self._max_body_bytes = max_body_bytes
        self._confirmed = acknowledging.handler

    def routes(self) -> list[Route]:
        """Return the routes."""
        read, manage = Right.SCHEDULERS_READ, Right.SCHEDULERS_MANAGE

        def route(method: str, path: str, handler: Handler, right: Right, about: About) -> Route:
            template = f"/queues/{{queue}}/schedulers{path}"
            return Route(template, handler, method=method, right=right, own=True, about=about)

        one = Reply(answers.Scheduler, "The scheduler")

        return [
            route("GET", "", self.all, read, About((Reply(answers.SchedulerPage, "A page"),), parameters=WINDOW)),
            Route("/schedulers", self.of_all_queues, right=read, own=True, about=_OF_ALL_QUEUES),
            route("GET", "/{id}", self.get, read, About((one,), parameters=(_NEXT,), errors=(SchedulerNotFound,))),
            route(
                "PUT",
                "/{id}",
                self._confirmed(self.put),
                manage,
                About((one,), body=SchedulerSpec, errors=(SchedulerNotFound,)),
            ),
            route("DELETE", "/{id}", self._confirmed(self.remove), manage, About((DONE,), errors=(SchedulerNotFound,))),
        ]

    def _scheduler(self, request: Request) -> tuple[str, str]:
        queue, scheduler_id = request.queue, request.path_params["id"]
        self._names.check(queue)
        check_scheduler_id(scheduler_id)
        return queue, scheduler_id

    async def put(self, request: Request) -> Response:
        """Set or replace a scheduler."""
        queue, scheduler_id = self._scheduler(request)
        spec = read_scheduler(await request.json_text(self._max_body_bytes), read_zone)
        await self._schedulers.put(queue, scheduler_id, spec)
        return await self.get(request)

    async def get(self, request: Request) -> Response:
        """Get a scheduler."""
        queue, scheduler_id = self._scheduler(request)
        count = integer_in(request.query(), "next", 0, _MOST_TIMES, least=0)
        found = await self._schedulers.get(queue, scheduler_id)
        if found is None:
            raise SchedulerNotFound
        shown = _shown(found, hide=request.hides(queue))
        if count:
            shown = shown[:-1] + b',"nextTimes":%b}' % msgspec.json.encode(next_times(found, count, read_zone))
        return json_response(shown)

    async def of_all_queues(self, request: Request) -> Response:
        """List the schedulers of all queues, the next to make a job first."""
        query = request.query()
        start, length = integer_in(query, "start", 0, _MOST_BEFORE, least=0), integer_in(query, "length", 10, 100)
        queue = query.get("queue")
        if queue:
            request.demand(Right.SCHEDULERS_READ, queue)
            self._names.check(queue)
        queues = [queue] if queue else await self._seen(request)
        names, count = await self._schedulers.soonest(queues, start + length)
        shown = [await self._shown_of(request, *name) for name in names[start:]]
        return json_response(
            b'{"schedulers":%b,"count":%d}' % (job_json.array(one for one in shown if one is not None), count)
        )

    async def _seen(self, request: Request) -> list[str]:
        """Return the names of the queues that the caller may see, the first ones by name."""
        seen: list[str] = []
        after = ""
        while len(seen) < MOST_QUEUES:
            names = await self._known_names.page(after, _PAGE)
            seen += [name for name in names if request.caller.sees(name)]
            if len(names) < _PAGE:
                break
            after = names[-1]
        return seen[:MOST_QUEUES]

    async def _shown_of(self, request: Request, queue: str, scheduler_id: str) -> bytes | None:
        found = await self._schedulers.get(queue, scheduler_id)
        if found is None:
            return None
        return b'{"queue":%b,%b' % (msgspec.json.encode(queue), _shown(found, hide=request.hides(queue))[1:])

    async def all(self, request: Request) -> Response:
        """List the schedulers of a queue, the next to make a job first."""
        self._names.check(request.queue)
        start, length = window(request.query())
        found, count = await self._schedulers.all(request.queue, start, start + length - 1) if length else ([], 0)
        hide = request.hides(request.queue)
        shown = job_json.array(_shown(scheduler, hide=hide) for scheduler in found)
        return json_response(b'{"schedulers":%b,"count":%d}' % (shown, count))

    async def remove(self, request: Request) -> Response:
        """Remove a scheduler and its next job."""
        if not await self._schedulers.remove(*self._scheduler(request)):
            raise SchedulerNotFound
        return NO_CONTENT


def _shown(scheduler: StoredScheduler, *, hide: Redaction | None) -> bytes:
    fields = scheduler.fields
    parts = [b'"id":%b' % msgspec.json.encode(scheduler.id)]
    for names, as_json in ((_TEXTS, text_json), (_INTEGERS, integer_json)):
        parts += [
            b'"%b":%b' % (name.encode(), as_json(stored))
            for name in names
            if (stored := fields.get(name.encode())) is not None
        ]
    template = [
        b'"name":%b' % text_json(fields.get(b"name", b"")),
        b'"data":%b' % job_json.value(fields.get(b"data") or b"{}", b"data", hide=hide),
        b'"opts":%b' % read_options(fields.get(b"opts") or b"{}").text,
    ]
    parts.append(b'"template":{%b}' % b",".join(template))
    parts.append(b'"next":%d' % scheduler.next_ms)
    parts.append(b'"iterationCount":%b' % integer_json(fields.get(b"ic")))
    if scheduler.fault is not None:
        parts.append(b'"error":%b' % msgspec.json.encode(scheduler.fault))
    return b"{%b}" % b",".join(parts)
