"""`/queues/{queue}/schedulers`: job schedulers, set, read and removed."""

from __future__ import annotations

import msgspec

from toril.core.access import Right
from toril.core.errors import SchedulerNotFound
from toril.core.ports.jobs import SchedulerStore
from toril.core.queue_name import NameRules
from toril.core.scheduler import SchedulerSpec, StoredScheduler, check_scheduler_id, read_scheduler
from toril.core.stored_job import integer_json, read_options, text_json
from toril.gateway import shapes, wire
from toril.gateway.description import DONE, About, Reply
from toril.gateway.queues import WINDOW, window
from toril.gateway.routing import Access, Answer, Handler, Request, Route

_TEXTS = ("pattern", "tz")
_INTEGERS = ("every", "limit", "startDate", "endDate", "offset")


class SchedulerRoutes:
    """What makes jobs by the clock."""

    def __init__(self, schedulers: SchedulerStore, *, names: NameRules, max_body_bytes: int) -> None:
        self._schedulers = schedulers
        self._names = names
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """The routes of this module."""
        read, manage = Right.SCHEDULERS_READ, Right.SCHEDULERS_MANAGE

        def route(method: str, path: str, handler: Handler, right: Right, about: About) -> Route:
            template = f"/queues/{{queue}}/schedulers{path}"
            return Route(method, template, Access.TOKEN, handler, right, own=True, about=about)

        one = Reply(shapes.Scheduler, "The scheduler")

        return [
            route("GET", "", self.all, read, About((Reply(shapes.SchedulerPage, "A page"),), parameters=WINDOW)),
            route("GET", "/{id}", self.get, read, About((one,), errors=(SchedulerNotFound,))),
            route("PUT", "/{id}", self.put, manage, About((one,), body=SchedulerSpec, errors=(SchedulerNotFound,))),
            route("DELETE", "/{id}", self.remove, manage, About((DONE,), errors=(SchedulerNotFound,))),
        ]

    def _scheduler(self, request: Request) -> tuple[str, str]:
        queue, scheduler_id = request.queue, request.segment(3)
        self._names.check(queue)
        check_scheduler_id(scheduler_id)
        return queue, scheduler_id

    async def put(self, request: Request) -> Answer:
        """Set a scheduler, in place of the one that was."""
        queue, scheduler_id = self._scheduler(request)
        spec = read_scheduler(await request.json(self._max_body_bytes))
        await self._schedulers.put(queue, scheduler_id, spec)
        return await self.get(request)

    async def get(self, request: Request) -> Answer:
        """One scheduler."""
        queue, scheduler_id = self._scheduler(request)
        found = await self._schedulers.get(queue, scheduler_id)
        if found is None:
            raise SchedulerNotFound
        return wire.json_answer(_shown(found, hide=request.hides(queue)))

    async def all(self, request: Request) -> Answer:
        """A page of schedulers, the next to make a job first."""
        self._names.check(request.queue)
        start, length = window(request.query())
        found, count = await self._schedulers.all(request.queue, start, start + length - 1) if length else ([], 0)
        hide = request.hides(request.queue)
        shown = wire.array(_shown(scheduler, hide=hide) for scheduler in found)
        return wire.json_answer(b'{"schedulers":%b,"count":%d}' % (shown, count))

    async def remove(self, request: Request) -> Answer:
        """Remove a scheduler and the job it has made for the next time."""
        if not await self._schedulers.remove(*self._scheduler(request)):
            raise SchedulerNotFound
        return wire.NO_CONTENT


def _shown(scheduler: StoredScheduler, *, hide: bool) -> bytes:
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
        b'"data":%b' % wire.value(fields.get(b"data") or b"{}", hide=hide),
        b'"opts":%b' % read_options(fields.get(b"opts") or b"{}").text,
    ]
    parts.append(b'"template":{%b}' % b",".join(template))
    parts.append(b'"next":%d' % scheduler.next_ms)
    parts.append(b'"iterationCount":%b' % integer_json(fields.get(b"ic")))
    fault = scheduler.fault()
    if fault is not None:
        parts.append(b'"error":%b' % msgspec.json.encode(fault))
    return b"{%b}" % b",".join(parts)
