"""`/queues/{queue}/jobs`: add, list."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from toril.core.access import Right
from toril.core.errors import InvalidRequest
from toril.core.job import JobSpec, decode_jobs
from toril.core.ports.jobs import JobProducer, JobReader
from toril.core.ports.shared import Now
from toril.core.queue_name import NameRules
from toril.gateway import shapes, wire
from toril.gateway.description import About, Parameter, Reply
from toril.gateway.idempotency_key import refuse_key
from toril.gateway.large_answers import answered, array_of_jobs, page_of_jobs
from toril.gateway.routing import Access, Answer, Request, Route, Stream

STATUSES = ("waiting", "active", "completed", "failed", "delayed", "waiting-children")
DEFAULT_STATUSES = STATUSES[:4]
MAX_LENGTH = 100
WINDOW = (
    Parameter("start", Annotated[int, Meta(ge=0)], "The first of the page, counted from 0"),
    Parameter("length", Annotated[int, Meta(ge=0, le=MAX_LENGTH)], "How many there are on a page; 10 unless told"),
)


class QueueRoutes:
    """Adds and reads the jobs of queues."""

    def __init__(
        self,
        producer: JobProducer,
        reader: JobReader,
        *,
        names: NameRules,
        prefix: str,
        max_body_bytes: int,
        now: Now,
    ) -> None:
        self._producer = producer
        self._reader = reader
        self._names = names
        self._prefix = prefix
        self._max_body_bytes = max_body_bytes
        self._now = now

    def routes(self) -> list[Route]:
        """The routes of this module."""
        return [
            Route(
                "POST",
                "/queues/{queue}/jobs",
                Access.TOKEN,
                self.add,
                Right.JOBS_ADD,
                door="queues",
                about=About((Reply(list[shapes.Job], "The jobs as added, in their order"),), body=list[JobSpec]),
            ),
            Route(
                "GET",
                "/queues/{queue}/jobs",
                Access.TOKEN,
                self.page,
                Right.JOBS_READ,
                about=About(
                    (Reply(shapes.JobPage, "Counts, and the newest jobs of each status"),),
                    parameters=(
                        *WINDOW,
                        Parameter(
                            "statuses", str, f"Of {', '.join(STATUSES)}, with commas; the first four unless told"
                        ),
                    ),
                ),
            ),
        ]

    def _queue(self, request: Request) -> str:
        queue = request.segment(1)
        self._names.check(queue)
        return queue

    async def add(self, request: Request) -> Answer:
        """Add the jobs in the body, several of them all or none."""
        queue = self._queue(request)
        refuse_key(request.scope["headers"], "a job with an opts.jobId is added once")
        jobs = decode_jobs(await request.json(self._max_body_bytes))
        now_ms = int(self._now() * 1000)
        ids = await self._producer.add(queue, jobs, now_ms)
        qualified, hide = wire.qualified(self._prefix, queue), request.hides(queue)
        return wire.json_answer(
            wire.array(
                [wire.added(qualified, job, job_id, now_ms, hide=hide) for job, job_id in zip(jobs, ids, strict=True)]
            )
        )

    async def page(self, request: Request) -> Answer | Stream:
        """A page of jobs of some statuses, and how many there are."""
        queue = self._queue(request)
        query = request.query()
        start, length = window(query)
        statuses = [status for status in query.get("statuses", "").split(",") if status] or DEFAULT_STATUSES
        for status in statuses:
            if status not in STATUSES:
                raise InvalidRequest(f"Invalid status: {status}", field="statuses")
        counts, jobs = await self._reader.page(queue, list(dict.fromkeys(statuses)), start, length)
        qualified, hide = wire.qualified(self._prefix, queue), request.hides(queue)
        shown = array_of_jobs(qualified, jobs, hide=hide)
        return await answered(page_of_jobs(msgspec.json.encode(counts), shown, start, length))


def window(query: dict[str, str]) -> tuple[int, int]:
    """`start` and `length` of a page.

    Raises:
        InvalidRequest: with BullMQ Proxy's text.
    """
    try:
        start, length = int(query.get("start") or 0), int(query.get("length") or 10)
    except ValueError:
        raise InvalidRequest("Invalid start or length") from None
    if start < 0 or length < 0:
        raise InvalidRequest("Start and length must be positive")
    if length > MAX_LENGTH:
        raise InvalidRequest(f"Length must be less than or equal to {MAX_LENGTH}")
    if start >= 2**53:
        raise InvalidRequest("Invalid start or length")
    return start, length
