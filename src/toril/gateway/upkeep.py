"""The rest of what BullMQ's Queue and Job do: deduplication keys, counts per priority, trimming, orphans, flows."""

from __future__ import annotations

import msgspec

from toril.core.access import Right
from toril.core.actions import Nothing, RemoveOrphans, TrimEvents, read_action
from toril.core.errors import InvalidRequest, JobNotFound, QueueNotFound
from toril.core.job import MAX_PRIORITY
from toril.core.ports.queues import QueueControl, QueueUpkeep
from toril.core.queue_name import NameRules
from toril.gateway import shapes, wire
from toril.gateway.description import DONE, About, Parameter, Reply
from toril.gateway.family import Family
from toril.gateway.routing import Access, Answer, Handler, Request, Route, job_of

_MAX_BODY_BYTES = 64 * 1024
_MOST_PRIORITIES = 100
_MOST_KEPT = 1_000_000
_encode = msgspec.json.Encoder().encode

_PRIORITIES = About(
    (Reply(dict[str, int], "How many jobs wait, by priority"),),
    parameters=(Parameter("priorities", str, "Priorities with commas between them; 0 is none", required=True),),
    errors=(QueueNotFound, InvalidRequest),
)
_TRIM = About((Reply(shapes.Removed, "How many events are gone"),), body=TrimEvents, errors=(QueueNotFound,))
_ORPHANS = About(
    (Reply(shapes.Orphans, "How many jobs were removed or put back"),),
    body=RemoveOrphans,
    body_required=False,
    errors=(QueueNotFound,),
)
_HOLDER = About((Reply(shapes.DeduplicationHolder, "Who holds the key"),), errors=(JobNotFound,))
_FORGET = About((DONE,), errors=(JobNotFound,))
_LOGS = About(
    (DONE,),
    parameters=(Parameter("keep", int, "How many of the newest lines stay; none unless told"),),
    errors=(JobNotFound, InvalidRequest),
)
_DETACH = About((Reply(shapes.Detached, "Whether there was a parent"),), body=Nothing, body_required=False,
                errors=(JobNotFound,))  # fmt: skip


class UpkeepRoutes:
    """What is not needed every day."""

    def __init__(self, upkeep: QueueUpkeep, control: QueueControl, family: Family, *, names: NameRules) -> None:
        self._upkeep = upkeep
        self._family = family
        self._control = control
        self._names = names

    def routes(self) -> list[Route]:
        """The routes of this module."""

        def route(method: str, path: str, handler: Handler, right: Right, about: About) -> Route:
            return Route(method, f"/queues/{{queue}}{path}", Access.TOKEN, handler, right, own=True, about=about)

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

    async def priorities(self, request: Request) -> Answer:
        """How many jobs wait with each of some priorities."""
        asked = request.query().get("priorities", "")
        wanted = [_priority(text) for text in asked.split(",")]
        if len(wanted) > _MOST_PRIORITIES:
            raise InvalidRequest(f"At most {_MOST_PRIORITIES} priorities at a time", field="priorities")
        queue = await self._known(request)
        counts = await self._upkeep.counts_per_priority(queue, wanted)
        return wire.json_answer(_encode(dict(zip(map(str, wanted), counts, strict=True))))

    async def trim_events(self, request: Request) -> Answer:
        """Keep only the newest events of the queue."""
        asked = read_action(await request.json(_MAX_BODY_BYTES), TrimEvents)
        removed = await self._upkeep.trim_events(await self._known(request), asked.maxLength)
        return wire.json_answer(_encode({"removed": removed}))

    async def remove_orphans(self, request: Request) -> Answer:
        """Remove jobs that are in no state, so that no worker finds them; or let them wait again."""
        asked = read_action(await request.json(_MAX_BODY_BYTES), RemoveOrphans)
        queue = await self._known(request)
        if asked.restore:
            restored = await self._upkeep.restore_orphans(queue, asked.limit)
            return wire.json_answer(_encode({"removed": 0, "restored": restored}))
        removed = await self._upkeep.remove_orphans(queue, asked.limit)
        return wire.json_answer(_encode({"removed": removed}))

    async def holder(self, request: Request) -> Answer:
        """The job that holds a deduplication key."""
        self._names.check(request.queue)
        job_id = await self._upkeep.deduplicated(request.queue, request.segment(3))
        if job_id is None:
            raise JobNotFound
        return wire.json_answer(_encode({"jobId": job_id.decode(errors="replace")}))

    async def forget(self, request: Request) -> Answer:
        """Remove a deduplication key: the next job with it is added."""
        self._names.check(request.queue)
        if not await self._upkeep.forget_deduplication(request.queue, request.segment(3)):
            raise JobNotFound
        return wire.NO_CONTENT

    async def clear_logs(self, request: Request) -> Answer:
        """Remove a job's log lines, but the newest `?keep=`."""
        text = request.query().get("keep") or "0"
        if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) <= _MOST_KEPT):
            raise InvalidRequest(f"Invalid keep {text[:100]}, must be from 0 to {_MOST_KEPT}", field="keep")
        await self._upkeep.clear_logs(*job_of(request, self._names), int(text))
        return wire.NO_CONTENT

    async def remove_children(self, request: Request) -> Answer:
        """Remove the children of a job that nobody has begun with."""
        queue, job_id = job_of(request, self._names)
        await self._family.demand(request, Right.JOBS_MANAGE, queue, job_id)
        await self._upkeep.remove_children(queue, job_id)
        return wire.NO_CONTENT

    async def detach(self, request: Request) -> Answer:
        """Let the job's parent wait for it no longer."""
        read_action(await request.json(_MAX_BODY_BYTES), Nothing)
        return wire.json_answer(_encode({"detached": await self._upkeep.detach(*job_of(request, self._names))}))


def _priority(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) < MAX_PRIORITY):
        raise InvalidRequest(
            f"Invalid priorities {text[:100]!r}, must be numbers below {MAX_PRIORITY} with commas", field="priorities"
        )
    return int(text)
