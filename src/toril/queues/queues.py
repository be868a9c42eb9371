"""`/queues/{queue}/jobs`: adds and lists jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.responses import Response

from toril.bullmq.ports.jobs import JobProducer, JobReader
from toril.bullmq.rules.actions import STATES
from toril.bullmq.rules.job import JobSpec
from toril.bullmq.rules.job_decoding import decode_jobs
from toril.bullmq.rules.queue_name import NameRules
from toril.bullmq.rules.traced import traced_job
from toril.core.access import Right
from toril.core.errors import InvalidRequest
from toril.core.http.trace_context import metadata
from toril.core.ports import Now
from toril.core.redaction import Redaction
from toril.core.stored_job import SHOWN_FROM
from toril.queues import job_json
from toril.queues.large_answers import answered, array_of_jobs, page_of_jobs
from toril.queues.shapes import answers
from toril.telemetry.tracing.requests import sent_trace
from toril.web.idempotency_key import refuse_key
from toril.web.openapi.description import About, Parameter, Reply
from toril.web.request import Request
from toril.web.responses import json_response
from toril.web.routing import Route

STATUSES = ("waiting", "active", "completed", "failed", "delayed", "waiting-children")
DEFAULT_STATUSES = STATUSES[:4]
MAX_LENGTH = 100
WINDOW = (
    Parameter("start", Annotated[int, Meta(ge=0)], "The first item of the page, counted from 0"),
    Parameter("length", Annotated[int, Meta(ge=0, le=MAX_LENGTH)], "How many items are on a page; 10 by default"),
)


ORDER = Parameter("order", Literal["newest", "oldest"], "Which jobs of each status come first; the newest by default")
_ALWAYS = (b"name", b"timestamp")


class JobAdder:
    """Adds jobs for a request, a copy or a command, and shows them. `prefix` is the prefix of BullMQ's keys."""

    def __init__(self, producer: JobProducer, *, prefix: str, now: Now) -> None:
        self._producer = producer
        self.prefix = prefix
        self._now = now

    async def add(self, queue: str, jobs: Sequence[JobSpec], *, hide: Redaction | None) -> list[bytes]:
        """Add jobs in order, all or none; return the JSON of each, with `hide` without secrets."""
        now_ms = int(self._now() * 1000)
        ids = await self._producer.add(queue, jobs, now_ms)
        qualified = job_json.qualified(self.prefix, queue)
        return [
            job_json.added(qualified, job, job_id, now_ms, hide=hide) for job, job_id in zip(jobs, ids, strict=True)
        ]


class QueueRoutes:
    """Routes that add and list jobs."""

    def __init__(
        self, adder: JobAdder, reader: JobReader, *, names: NameRules, prefix: str, max_body_bytes: int
    ) -> None:
        self._adder = adder
        self._reader = reader
        self._names = names
        self._prefix = prefix
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(
                "/queues/{queue}/jobs",
                self.add,
                method="POST",
                right=Right.JOBS_ADD,
                door="queues",
                about=About(
                    (Reply(list[answers.Job], "The added jobs, in the order of the request"),), body=list[JobSpec]
                ),
            ),
            Route(
                "/queues/{queue}/jobs",
                self.page,
                right=Right.JOBS_READ,
                about=About(
                    (Reply(answers.JobPage, "Counts, and the newest jobs of each status"),),
                    parameters=(
                        *WINDOW,
                        Parameter(
                            "statuses",
                            str,
                            f"Of {', '.join(STATUSES)}, with commas; the first four by default. With `order` or "
                            "`fields`, also paused and prioritized",
                        ),
                        ORDER,
                        Parameter(
                            "fields", str, "The fields of each job to return, with commas; `id` is always among them"
                        ),
                    ),
                ),
            ),
        ]

    def _queue(self, request: Request) -> str:
        queue = request.queue
        self._names.check(queue)
        return queue

    async def add(self, request: Request) -> Response:
        """Add jobs to a queue, all or none."""
        queue = self._queue(request)
        refuse_key(request.scope["headers"], "a job with an opts.jobId is added once")
        jobs = decode_jobs(await request.json_text(self._max_body_bytes))
        trace = sent_trace(request.scope, queue, len(jobs))
        if trace:
            jobs = [traced_job(job, metadata(trace)) for job in jobs]
        return json_response(job_json.array(await self._adder.add(queue, jobs, hide=request.hides(queue))))

    async def page(self, request: Request) -> Response:
        """List jobs by status."""
        queue = self._queue(request)
        query = request.query()
        start, length = window(query)
        statuses = [status for status in query.get("statuses", "").split(",") if status] or DEFAULT_STATUSES
        known = STATES if "order" in query or "fields" in query else STATUSES
        for status in statuses:
            if status not in known:
                raise InvalidRequest(f"Invalid status: {status}", field="statuses")
        oldest_first, names = is_oldest_first(query), _names_of_fields(query)
        counts, jobs = await self._reader.page(
            queue, list(dict.fromkeys(statuses)), start, length, oldest_first=oldest_first, fields=_stored_fields(names)
        )
        qualified, hide = job_json.qualified(self._prefix, queue), request.hides(queue)
        shown = array_of_jobs(qualified, jobs, hide=hide, names=names)
        return await answered(page_of_jobs(msgspec.json.encode(counts), shown, start, length))


def is_oldest_first(query: dict[str, str]) -> bool:
    """Return True for `?order=oldest`.

    Raises:
        InvalidRequest: there is no such order.
    """
    order = query.get("order") or "newest"
    if order not in {"newest", "oldest"}:
        raise InvalidRequest(f"Invalid order {order[:100]}, must be newest or oldest", field="order")
    return order == "oldest"


def _names_of_fields(query: dict[str, str]) -> frozenset[str] | None:
    """Return the names in `?fields=`; None if all are meant."""
    names = frozenset(name for name in query.get("fields", "").split(",") if name)
    for name in sorted(names):
        if name not in SHOWN_FROM:
            raise InvalidRequest(f"Invalid field {name[:100]}, must be of {', '.join(SHOWN_FROM)}", field="fields")
    return names or None


def _stored_fields(names: frozenset[str] | None) -> list[bytes]:
    """Return the fields of a job's hash to read for these names, with two that every job has; empty for all fields."""
    if names is None:
        return []
    return list(dict.fromkeys([*_ALWAYS, *(field for name in sorted(names) for field in SHOWN_FROM[name])]))


def window(query: dict[str, str]) -> tuple[int, int]:
    """Return `start` and `length` of a page.

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
