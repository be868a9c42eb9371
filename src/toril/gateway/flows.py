"""`/flows`, and the flow of a job: trees of jobs, added all or none, and read back."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from toril.core.access import Right
from toril.core.errors import InvalidRequest, JobNotFound, JobRefused
from toril.core.flow import AddedJob, Depth, FlowJob, FlowTree, read_flows
from toril.core.ports.jobs import FlowStore
from toril.core.ports.shared import Now
from toril.core.queue_name import NameRules
from toril.core.stored_job import text_json
from toril.gateway import shapes, wire
from toril.gateway.description import About, Parameter, Reply
from toril.gateway.idempotency_key import refuse_key
from toril.gateway.routing import Access, Answer, Request, Route, job_of

DEFAULT_LEVELS, MAX_LEVELS = 10, 100
DEFAULT_CHILDREN, MAX_CHILDREN = 20, 1000

_ADD = About(
    (Reply(shapes.Flow | list[shapes.Flow], "The tree as added, or a list of them where a list was posted"),),
    body=FlowJob | list[FlowJob],
    errors=(JobRefused,),
)
_READ = About(
    (Reply(shapes.Flow, "The job and what is below it, as far as the token may see"),),
    parameters=(
        Parameter("depth", Annotated[int, Meta(ge=1, le=MAX_LEVELS)], f"Levels; {DEFAULT_LEVELS} unless told"),
        Parameter(
            "maxChildren",
            Annotated[int, Meta(ge=1, le=MAX_CHILDREN)],
            f"Children of each job; {DEFAULT_CHILDREN} unless told",
        ),
    ),
    errors=(JobNotFound,),
)


class FlowRoutes:
    """Adds and reads flows."""

    def __init__(self, flows: FlowStore, *, names: NameRules, prefix: str, max_body_bytes: int, now: Now) -> None:
        self._flows = flows
        self._names = names
        self._prefix = prefix
        self._max_body_bytes = max_body_bytes
        self._now = now

    def routes(self) -> list[Route]:
        """The routes of this module."""
        return [
            Route("POST", "/flows", Access.TOKEN, self.add, Right.JOBS_ADD, own=True, door="queues", about=_ADD),
            Route(
                "GET", "/queues/{queue}/jobs/{id}/flow", Access.TOKEN, self.read, Right.JOBS_READ, own=True, about=_READ
            ),
        ]

    async def add(self, request: Request) -> Answer:
        """Add a tree of jobs, or a list of them, all or none."""
        refuse_key(request.scope["headers"], "jobs with an opts.jobId are added once")
        jobs, many = read_flows(await request.json(self._max_body_bytes))
        for queue in sorted({name for job in jobs for name in job.queues()}):
            request.demand(Right.JOBS_ADD, queue)
            self._names.check(queue)
        placed = await self._flows.add(jobs, int(self._now() * 1000)) if jobs else []
        added = [self._added(request, job) for job in placed]
        return wire.json_answer(wire.array(added) if many else added[0])

    def _added(self, request: Request, placed: AddedJob) -> bytes:
        queue = placed.job.queueName
        qualified, hide = wire.qualified(self._prefix, queue), request.hides(queue)
        job = wire.added(qualified, placed.job.spec(), placed.id.encode(), placed.timestamp_ms, hide=hide)
        if placed.parent is not None:
            job = job[:-1] + b',"parentKey":%b}' % text_json(placed.parent.key.encode())
        return _node(job, [self._added(request, child) for child in placed.children])

    async def read(self, request: Request) -> Answer:
        """A job with its children, and theirs: `?depth=` levels (10), `?maxChildren=` of each (20)."""
        queue, job_id = job_of(request, self._names)
        query = request.query()
        depth = Depth(
            _whole(query, "depth", DEFAULT_LEVELS, MAX_LEVELS),
            _whole(query, "maxChildren", DEFAULT_CHILDREN, MAX_CHILDREN),
            lambda name: request.caller.may(Right.JOBS_READ, name),
        )
        return wire.json_answer(self._stored(request, await self._flows.read(queue, job_id, depth)))

    def _stored(self, request: Request, tree: FlowTree) -> bytes:
        qualified, hide = wire.qualified(self._prefix, tree.queue), request.hides(tree.queue)
        job = wire.stored(qualified, tree.job_id.encode(), tree.fields, hide=hide)
        return _node(job, [self._stored(request, child) for child in tree.children])


def _node(job: bytes, children: list[bytes]) -> bytes:
    return b'{"job":%b,"children":%b}' % (job, wire.array(children))


def _whole(query: dict[str, str], field: str, default: int, most: int) -> int:
    text = query.get(field) or str(default)
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= most:
        raise InvalidRequest(f"Invalid {field} {text[:100]}, must be from 1 to {most}", field=field)
    return int(text)
