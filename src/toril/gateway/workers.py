"""`/workers`: register, list, look at, pause and remove the HTTP endpoints that work on queues."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from toril.core.access import Right
from toril.core.actions import Nothing, read_action
from toril.core.egress import Egress
from toril.core.errors import InvalidRequest, WorkerNotFound
from toril.core.ports.work import RecentAttempts, WorkerChanges, WorkerRegistry
from toril.core.queue_name import NameRules
from toril.core.worker import check_origin, read_worker, shown_worker, stored_url, worker_state
from toril.gateway import shapes, wire
from toril.gateway.description import DONE, OK_TEXT, About, Parameter, Reply
from toril.gateway.routing import Access, Answer, Request, Route

_State = Literal["running", "paused", "invalid"]
_encode = msgspec.json.Encoder().encode

_REGISTER = About((OK_TEXT,), body=shapes.Worker)
_ALL = About(
    (Reply(dict[str, str], "The endpoints' URLs by queue"),),
    parameters=(Parameter("state", _State, "Only workers in this state; all of them unless told"),),
    errors=(InvalidRequest,),
)
_REMOVE = About((OK_TEXT,), errors=(WorkerNotFound,))
_ONE = About((Reply(shapes.ShownWorker, "The worker"),), errors=(WorkerNotFound,))
_PAUSE = About((DONE,), body=Nothing, body_required=False, errors=(WorkerNotFound,))


class WorkerRoutes:
    """Writes the fleet's registry, which every instance follows; this process has done so when it answers."""

    def __init__(
        self,
        registry: WorkerRegistry,
        attempts: RecentAttempts,
        changes: WorkerChanges,
        *,
        names: NameRules,
        egress: Egress,
        max_body_bytes: int,
    ) -> None:
        self._registry = registry
        self._attempts = attempts
        self._changes = changes
        self._names = names
        self._egress = egress
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """The routes of this module."""
        return [
            Route("POST", "/workers", Access.TOKEN, self.register, Right.WORKERS_MANAGE, about=_REGISTER),
            Route("GET", "/workers", Access.TOKEN, self.all, Right.WORKERS_READ, about=_ALL),
            Route("DELETE", "/workers/{queue}", Access.TOKEN, self.remove, Right.WORKERS_MANAGE, about=_REMOVE),
            Route("GET", "/workers/{queue}", Access.TOKEN, self.one, Right.WORKERS_READ, own=True, about=_ONE),
            *(
                Route(
                    "POST", f"/workers/{{queue}}/{action}", Access.TOKEN, handler, Right.WORKERS_MANAGE,
                    own=True, about=_PAUSE,
                )
                for action, handler in (("pause", self.pause), ("resume", self.resume))
            ),
        ]  # fmt: skip

    async def register(self, request: Request) -> Answer:
        """Register an endpoint as the worker of a queue, in place of the one that was."""
        document = await request.json(self._max_body_bytes)
        worker = read_worker(document, self._names)
        request.demand(Right.WORKERS_MANAGE, worker.queue)
        check_origin(worker.endpoint, self._egress)
        await self._registry.put(worker.queue, document)
        await self._changes.catch_up(worker.queue)
        return wire.OK

    async def all(self, request: Request) -> Answer:
        """The endpoints' URLs by queue, of all workers or of those in one state. Without a URL it is an empty text."""
        wanted = request.query().get("state")
        if wanted is not None and wanted not in get_args(_State):
            raise InvalidRequest(f"Invalid state {wanted[:100]}, must be running, paused or invalid", field="state")
        seen = {
            queue: document for queue, document in (await self._registry.all()).items() if request.caller.sees(queue)
        }
        if wanted is not None:
            paused = await self._registry.paused()
            seen = {
                queue: document
                for queue, document in seen.items()
                if worker_state(queue, document, self._names, paused=queue in paused) == wanted
            }
        return wire.json_answer(_encode({queue: stored_url(document) for queue, document in seen.items()}))

    async def remove(self, request: Request) -> Answer:
        """Remove a queue's worker; jobs in flight end.

        No job begins here after the answer.
        """
        if not await self._registry.remove(request.segment(1)):
            raise WorkerNotFound
        await self._changes.catch_up(request.segment(1))
        return wire.OK

    async def one(self, request: Request) -> Answer:
        """A worker as it is registered, without what may be secret; whether it runs; and its last attempts."""
        queue = request.segment(1)
        document = (await self._registry.some([queue])).get(queue)
        if document is None:
            raise WorkerNotFound
        shown = shown_worker(queue, document, self._names, paused=queue in await self._registry.paused())
        recent = wire.array(await self._attempts.recent(queue))
        return wire.json_answer(b'%b,"recent":%b}' % (_encode(shown)[:-1], recent))

    async def pause(self, request: Request) -> Answer:
        """Let the worker take no more jobs, in the whole fleet; those in flight end.

        No job begins here after the answer.
        """
        return await self._pause(request, paused=True)

    async def resume(self, request: Request) -> Answer:
        """Let it take jobs again."""
        return await self._pause(request, paused=False)

    async def _pause(self, request: Request, *, paused: bool) -> Answer:
        read_action(await request.json(self._max_body_bytes), Nothing)
        if not await self._registry.pause(request.segment(1), paused=paused):
            raise WorkerNotFound
        await self._changes.catch_up(request.segment(1))
        return wire.NO_CONTENT
