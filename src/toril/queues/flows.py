"""`/flows`, and the flow of a job: adds trees of jobs, all or none, and reads them back."""

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

from msgspec import Meta
from starlette.responses import Response

from toril.bullmq.ports.jobs import FlowStore
from toril.bullmq.rules.flow import AddedJob, Depth, FlowJob, FlowTree, read_flows
from toril.bullmq.rules.queue_name import NameRules
from toril.bullmq.rules.traced import traced_flow
from toril.core.access import Right
from toril.core.errors import JobNotFound, JobRefused
from toril.core.http.trace_context import metadata
from toril.core.ports import Now
from toril.core.stored_job import text_json
from toril.queues import job_json
from toril.queues.shapes import answers
from toril.telemetry.tracing.requests import sent_trace
from toril.web.idempotency_key import refuse_key
from toril.web.openapi.description import About, Parameter, Reply
from toril.web.parameters import integer_in
from toril.web.request import Request
from toril.web.responses import json_response
from toril.web.routing import Route

DEFAULT_LEVELS, MAX_LEVELS = 10, 100
DEFAULT_CHILDREN, MAX_CHILDREN = 20, 1000

_ADD = About(
    (Reply(answers.Flow | list[answers.Flow], "The tree as added, or a list of them where a list was posted"),),
    body=FlowJob | list[FlowJob],
    errors=(JobRefused,),
)
_READ = About(
    (Reply(answers.Flow, "The job and its descendants, without queues that the token may not see"),),
    parameters=(
        Parameter(
            "depth", Annotated[int, Meta(ge=1, le=MAX_LEVELS)], f"How many levels to read; {DEFAULT_LEVELS} by default"
        ),
        Parameter(
            "maxChildren",
            Annotated[int, Meta(ge=1, le=MAX_CHILDREN)],
            f"How many children of each job to read; {DEFAULT_CHILDREN} by default",
        ),
    ),
    errors=(JobNotFound,),
)


class FlowRoutes:
    """Routes that add and read flows."""

    def __init__(self, flows: FlowStore, *, names: NameRules, prefix: str, max_body_bytes: int, now: Now) -> None:
        self._flows = flows
        self._names = names
        self._prefix = prefix
        self._max_body_bytes = max_body_bytes
        self._now = now

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/flows", self.add, method="POST", right=Right.JOBS_ADD, own=True, door="queues", about=_ADD),
            Route("/queues/{queue}/jobs/{id}/flow", self.read, right=Right.JOBS_READ, own=True, about=_READ),
        ]

    async def add(self, request: Request) -> Response:
        """Add a tree of jobs, or a list of trees, all or none."""
        refuse_key(request.scope["headers"], "jobs with an opts.jobId are added once")
        jobs, many = read_flows(await request.json_text(self._max_body_bytes), lambda: str(uuid4()))
        trace = sent_trace(request.scope, jobs[0].queueName, len(jobs)) if jobs else []
        if trace:
            jobs = [traced_flow(job, metadata(trace)) for job in jobs]
        for queue in sorted({name for job in jobs for name in job.queues()}):
            request.demand(Right.JOBS_ADD, queue)
            self._names.check(queue)
        placed = await self._flows.add(jobs, int(self._now() * 1000)) if jobs else []
        added = [self._added(request, job) for job in placed]
        return json_response(job_json.array(added) if many else added[0])

    def _added(self, request: Request, placed: AddedJob) -> bytes:
        queue = placed.job.queueName
        qualified, hide = job_json.qualified(self._prefix, queue), request.hides(queue)
        job = job_json.added(qualified, placed.job.spec(), placed.id.encode(), placed.timestamp_ms, hide=hide)
        if placed.parent is not None:
            job = job[:-1] + b',"parentKey":%b}' % text_json(placed.parent.key.encode())
        return _node(job, [self._added(request, child) for child in placed.children])

    async def read(self, request: Request) -> Response:
        """Get a job with its descendants."""
        queue, job_id = request.job(self._names)
        query = request.query()
        depth = Depth(
            integer_in(query, "depth", DEFAULT_LEVELS, MAX_LEVELS),
            integer_in(query, "maxChildren", DEFAULT_CHILDREN, MAX_CHILDREN),
            lambda name: request.caller.may(Right.JOBS_READ, name),
        )
        return json_response(self._stored(request, await self._flows.read(queue, job_id, depth)))

    def _stored(self, request: Request, tree: FlowTree) -> bytes:
        qualified, hide = job_json.qualified(self._prefix, tree.queue), request.hides(tree.queue)
        job = job_json.stored(qualified, tree.job_id.encode(), tree.fields, hide=hide)
        return _node(job, [self._stored(request, child) for child in tree.children])


def _node(job: bytes, children: list[bytes]) -> bytes:
    return b'{"job":%b,"children":%b}' % (job, job_json.array(children))
