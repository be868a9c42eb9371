"""Maintenance routes: deduplication keys, counts per priority, event streams, orphaned jobs, logs, children."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from toril.bullmq.ports.queues import QueueControl, QueueMaintenance
from toril.bullmq.rules.actions import Nothing, RemoveOrphans, TrimEvents, read_action
from toril.bullmq.rules.job import MAX_PRIORITY
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.errors import InvalidRequest, JobNotFound, QueueNotFound
from toril.queues.acknowledging import AT_ONCE, Acknowledging
from toril.queues.child_jobs import ChildJobs
from toril.queues.shapes import answers
from toril.web.openapi.description import DONE, About, Parameter, Reply
from toril.web.parameters import integer, integer_in
from toril.web.request import Request
from toril.web.responses import NO_CONTENT, json_response
from toril.web.routing import Handler, Route

_MAX_BODY_BYTES = 64 * 1024
_MOST_PRIORITIES = 100
_MOST_KEPT = 1_000_000
_encode = msgspec.json.Encoder().encode

_PRIORITIES = About(
    (Reply(dict[str, int], "How many jobs wait, by priority"),),
    parameters=(Parameter("priorities", str, "Priorities with commas between them; 0 is none", required=True),),
    errors=(QueueNotFound, InvalidRequest),
)
_TRIM = About((Reply(answers.Removed, "How many events were removed"),), body=TrimEvents, errors=(QueueNotFound,))
_ORPHANS = About(
    (Reply(answers.Orphans, "How many jobs were removed or put back"),),
    body=RemoveOrphans,
    body_required=False,
    errors=(QueueNotFound,),
)
_HOLDER = About((Reply(answers.DeduplicationHolder, "The job that holds the key"),), errors=(JobNotFound,))
_FORGET = About((DONE,), errors=(JobNotFound,))
_LOGS = About(
    (DONE,),
    parameters=(Parameter("keep", int, "How many of the newest lines to keep; 0 by default"),),
    errors=(JobNotFound, InvalidRequest),
)
_DETACH = About((Reply(answers.Detached, "Whether a parent waited for the job"),), body=Nothing, body_required=False,
                errors=(JobNotFound,))  # fmt: skip


class MaintenanceRoutes:
    """Routes for the maintenance of queues and jobs."""

    def __init__(
        self,
        maintenance: QueueMaintenance,
        control: QueueControl,
        children: ChildJobs,
        *,
        names: NameRules,
        acknowledging: Acknowledging = AT_ONCE,
    ) -> None:
        self._maintenance = maintenance
        self._children = children
        self._control = control
        self._names = names
        self._confirmed = acknowledging.handler

    def routes(self) -> list[Route]:
        """Return the routes."""

        def route(method: str, path: str, handler: Handler, right: Right, about: About) -> Route:
            answered = handler if method == "GET" else self._confirmed(handler)
            return Route(f"/queues/{{queue}}{path}", answered, method=method, right=right, own=True, about=about)

        manage = Right.JOBS_MANAGE
        return [
            route("GET", "/priorities", self.priorities, Right.QUEUES_READ, _PRIORITIES),
            route("POST", "/trim-events", self.trim_events, Right.QUEUES_MANAGE, _TRIM),
            route("POST", "/remove-orphans", self.remove_orphans, Right.QUEUES_MANAGE, _ORPHANS),
            route("GET", "/deduplication/{key}", self.holder, Right.JOBS_READ, _HOLDER),
            route("DELETE", "/deduplication/{key}", self.forget, manage, _FORGET),
            route("DELETE", "/jobs/{id}/logs", self.clear_logs, manage, _LOGS),
            route("DELETE", "/jobs/{id}/children", self.remove_children, manage, _FORGET),
            route("POST", "/jobs/{id}/detach", self.detach, manage, _DETACH),
        ]

    async def _known(self, request: Request) -> str:
        self._names.check(request.queue)
        if not await self._control.exists(request.queue):
            raise QueueNotFound
        return request.queue

    async def priorities(self, request: Request) -> Response:
        """Count the waiting jobs with each of these priorities."""
        asked = request.query().get("priorities", "")
        wanted = [_priority(text) for text in asked.split(",")]
        if len(wanted) > _MOST_PRIORITIES:
            raise InvalidRequest(f"At most {_MOST_PRIORITIES} priorities at a time", field="priorities")
        queue = await self._known(request)
        counts = await self._maintenance.counts_per_priority(queue, wanted)
        return json_response(_encode(dict(zip(map(str, wanted), counts, strict=True))))

    async def trim_events(self, request: Request) -> Response:
        """Remove all but the newest events of a queue."""
        asked = read_action(await request.json_text(_MAX_BODY_BYTES), TrimEvents)
        removed = await self._maintenance.trim_events(await self._known(request), asked.maxLength)
        return json_response(_encode(answers.Removed(removed)))

    async def remove_orphans(self, request: Request) -> Response:
        """Remove jobs that are in no state, or put them back to waiting."""
        asked = read_action(await request.json_text(_MAX_BODY_BYTES), RemoveOrphans)
        queue = await self._known(request)
        if asked.restore:
            restored = await self._maintenance.restore_orphans(queue, asked.limit)
            return json_response(_encode(answers.Orphans(0, restored)))
        removed = await self._maintenance.remove_orphans(queue, asked.limit)
        return json_response(_encode(answers.Orphans(removed)))

    async def holder(self, request: Request) -> Response:
        """Get the job that holds a deduplication key."""
        self._names.check(request.queue)
        job_id = await self._maintenance.deduplicated(request.queue, request.path_params["key"])
        if job_id is None:
            raise JobNotFound
        return json_response(_encode(answers.DeduplicationHolder(job_id.decode(errors="replace"))))

    async def forget(self, request: Request) -> Response:
        """Remove a deduplication key, so that the next job with it is added."""
        self._names.check(request.queue)
        if not await self._maintenance.forget_deduplication(request.queue, request.path_params["key"]):
            raise JobNotFound
        return NO_CONTENT

    async def clear_logs(self, request: Request) -> Response:
        """Remove the log lines of a job, except the newest."""
        keep = integer_in(request.query(), "keep", 0, _MOST_KEPT, least=0)
        await self._maintenance.clear_logs(*request.job(self._names), keep)
        return NO_CONTENT

    async def remove_children(self, request: Request) -> Response:
        """Remove the children of a job that no worker has started."""
        queue, job_id = request.job(self._names)
        await self._children.demand(request, Right.JOBS_MANAGE, queue, job_id)
        await self._maintenance.remove_children(queue, job_id)
        return NO_CONTENT

    async def detach(self, request: Request) -> Response:
        """Detach a job from its parent, which then does not wait for it."""
        read_action(await request.json_text(_MAX_BODY_BYTES), Nothing)
        detached = await self._maintenance.detach(*request.job(self._names))
        return json_response(_encode(answers.Detached(detached)))


def _priority(text: str) -> int:
    fault = f"Invalid priorities {text[:100]!r}, must be numbers below {MAX_PRIORITY} with commas"
    return integer(text, "priorities", 0, MAX_PRIORITY - 1, fault)
