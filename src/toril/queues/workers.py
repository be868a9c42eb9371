"""`/workers`: register, list, look at, pause and remove the HTTP endpoints that work on queues."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec
from starlette.responses import Response

from toril.bullmq.rules.actions import Nothing, read_action
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.errors import InvalidRequest, WorkerNotFound
from toril.http_client.egress import Egress
from toril.queues import job_json
from toril.queues.ports import RecentAttempts, WorkerRegistry
from toril.queues.reconciler import Reconciler
from toril.queues.rules.worker import check_origin, check_policy, read_worker, shown_worker, stored_url, worker_state
from toril.queues.shapes import worker_documents
from toril.web.openapi.description import DONE, OK_TEXT, About, Parameter, Reply
from toril.web.request import Request
from toril.web.responses import NO_CONTENT, OK, json_response
from toril.web.routing import Route

_State = Literal["running", "paused", "invalid"]
_encode = msgspec.json.Encoder().encode

_REGISTER = About((OK_TEXT,), body=worker_documents.Worker)
_ALL = About(
    (Reply(dict[str, str], "The URL of each queue's endpoint, empty if a document has none"),),
    parameters=(Parameter("state", _State, "Only workers in this state; all by default"),),
    errors=(InvalidRequest,),
)
_REMOVE = About((OK_TEXT,), errors=(WorkerNotFound,))
_ONE = About((Reply(worker_documents.ShownWorker, "The worker"),), errors=(WorkerNotFound,))
_PAUSE = About((DONE,), body=Nothing, body_required=False, errors=(WorkerNotFound,))


class WorkerRoutes:
    """Routes that register workers. Every instance follows the registry; this process has done so when it answers."""

    def __init__(
        self,
        registry: WorkerRegistry,
        attempts: RecentAttempts,
        changes: Reconciler,
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
        """Return the routes."""
        return [
            Route("/workers", self.register, method="POST", right=Right.WORKERS_MANAGE, about=_REGISTER),
            Route("/workers", self.all, right=Right.WORKERS_READ, about=_ALL),
            Route("/workers/{queue}", self.remove, method="DELETE", right=Right.WORKERS_MANAGE, about=_REMOVE),
            Route("/workers/{queue}", self.one, right=Right.WORKERS_READ, own=True, about=_ONE),
            *(
                Route(f"/workers/{{queue}}/{action}", handler, method="POST", right=Right.WORKERS_MANAGE,
                    own=True, about=_PAUSE,
                )
                for action, handler in (("pause", self.pause), ("resume", self.resume))
            ),
        ]  # fmt: skip

    async def register(self, request: Request) -> Response:
        """Register an HTTP endpoint as the worker of a queue, or replace the one that is registered."""
        document = await request.json_text(self._max_body_bytes)
        worker = read_worker(document, self._names)
        request.demand(Right.WORKERS_MANAGE, worker.queue)
        check_origin(worker.endpoint, self._egress)
        check_policy(document)
        await self._registry.put(worker.queue, document)
        await self._changes.catch_up(worker.queue)
        return OK

    async def all(self, request: Request) -> Response:
        """List registered workers."""
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
        return json_response(_encode({queue: stored_url(document) for queue, document in seen.items()}))

    async def remove(self, request: Request) -> Response:
        """Remove the worker of a queue. Jobs in flight finish.

        This process begins no job for it after the answer.
        """
        if not await self._registry.remove(request.queue):
            raise WorkerNotFound
        await self._changes.catch_up(request.queue)
        return OK

    async def one(self, request: Request) -> Response:
        """Get a worker with its state and last attempts; secrets are hidden."""
        queue = request.queue
        document = (await self._registry.some([queue])).get(queue)
        if document is None:
            raise WorkerNotFound
        shown = shown_worker(queue, document, self._names, paused=queue in await self._registry.paused())
        recent = job_json.array(await self._attempts.recent(queue))
        return json_response(b'%b,"recent":%b}' % (_encode(shown)[:-1], recent))

    async def pause(self, request: Request) -> Response:
        """Pause a worker on all instances. Jobs in flight finish.

        This process begins no job for it after the answer.
        """
        return await self._pause(request, paused=True)

    async def resume(self, request: Request) -> Response:
        """Resume a paused worker."""
        return await self._pause(request, paused=False)

    async def _pause(self, request: Request, *, paused: bool) -> Response:
        read_action(await request.json_text(self._max_body_bytes), Nothing)
        if not await self._registry.pause(request.queue, paused=paused):
            raise WorkerNotFound
        await self._changes.catch_up(request.queue)
        return NO_CONTENT
