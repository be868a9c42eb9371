"""`/queues/{queue}/jobs/{id}`: one job read; progress and logs, as the worker that holds it reports them."""

from __future__ import annotations

from typing import Any

from toril.core.access import Right
from toril.core.errors import InvalidRequest, JobNotFound
from toril.core.job import is_job_id
from toril.core.job_faults import decode_json
from toril.core.ports.jobs import JobReader, JobReporter
from toril.core.queue_name import NameRules
from toril.gateway import shapes, wire
from toril.gateway.auth import check_lock
from toril.gateway.description import OK_TEXT, About, Parameter, Reply
from toril.gateway.job_actions import EXPANSIONS, Expansion, expansions
from toril.gateway.large_answers import answered, page_of_lines
from toril.gateway.queues import WINDOW, window
from toril.gateway.routing import Access, Answer, Request, Route, Stream

_GET = About(
    (Reply(shapes.ExpandedJob, "The job"),),
    parameters=(
        Parameter("expand", str, f"What to add, with commas: {', '.join(EXPANSIONS)}"),
        Parameter("state", str, "The same as `expand=state`, whatever its value"),
    ),
    errors=(JobNotFound,),
)
_PROGRESS = About((OK_TEXT,), body=Any, errors=(JobNotFound,))
_LOG = About((OK_TEXT,), body=str | shapes.LogText, errors=(JobNotFound,))
_LOGS = About(
    (Reply(shapes.JobLogs, "The lines, and how many there are in all"),),
    parameters=(*WINDOW, Parameter("end", int, "The last line, instead of `length`; -1 is the last there is")),
)


class JobRoutes:
    """One job, and what its worker reports of it. The lock token is checked against Redis on every call."""

    def __init__(
        self,
        reader: JobReader,
        reporter: JobReporter,
        expansion: Expansion,
        *,
        names: NameRules,
        prefix: str,
        max_body_bytes: int,
    ) -> None:
        self._reader = reader
        self._reporter = reporter
        self._expansion = expansion
        self._names = names
        self._prefix = prefix
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """The routes of this module."""
        path = "/queues/{queue}/jobs/{id}"
        return [
            Route("GET", path, Access.TOKEN, self.get, Right.JOBS_READ, about=_GET),
            Route("POST", f"{path}/progress", Access.LOCK, self.progress, about=_PROGRESS),
            Route("POST", f"{path}/logs", Access.LOCK, self.log, about=_LOG),
            Route("GET", f"{path}/logs", Access.TOKEN, self.logs, Right.JOBS_READ, about=_LOGS),
        ]

    async def _held(self, request: Request) -> tuple[str, str]:
        queue, job_id = request.segment(1), request.segment(3)
        check_lock(request.authorization, await self._reader.lock_token(queue, job_id))
        self._names.check(queue)
        return queue, job_id

    async def get(self, request: Request) -> Answer:
        """One job."""
        queue = request.queue
        self._names.check(queue)
        job_id = request.segment(3)
        parts = expansions(request.query())
        fields = await self._reader.get(queue, job_id) if is_job_id(job_id) else None
        if fields is None:
            raise JobNotFound
        qualified = wire.qualified(self._prefix, queue)
        shown = wire.stored(qualified, job_id.encode(), fields, hide=request.hides(queue))
        if parts:
            shown = shown[:-1] + await self._expansion.fields(request, queue, job_id, parts) + b"}"
        return wire.json_answer(shown)

    async def progress(self, request: Request) -> Answer:
        """Store the whole JSON body as the job's progress."""
        queue, job_id = await self._held(request)
        body = await request.json(self._max_body_bytes)
        decode_json(body)
        if not await self._reporter.progress(queue, job_id, body.strip()):
            raise JobNotFound
        return wire.OK

    async def log(self, request: Request) -> Answer:
        """Append a line to the job's log: a JSON string, or `{"log": "…"}`."""
        queue, job_id = await self._held(request)
        line = decode_json(await request.json(self._max_body_bytes))
        if isinstance(line, dict) and set(line) == {"log"}:
            line = line["log"]
        if not isinstance(line, str):
            raise InvalidRequest('The body must be a JSON string or {"log": "…"}')
        try:
            line.encode()
        except UnicodeEncodeError as exc:
            raise InvalidRequest("The log line must be valid Unicode") from exc
        if not await self._reporter.log(queue, job_id, line):
            raise JobNotFound
        return wire.OK

    async def logs(self, request: Request) -> Answer | Stream:
        """A page of the job's log, oldest line first: `start` and `length`, or `start` and `end` (-1 = all)."""
        queue, job_id = request.segment(1), request.segment(3)
        self._names.check(queue)
        query = request.query()
        start, length = window(query)
        end = start + length - 1
        if "end" in query:
            try:
                end = int(query["end"])
            except ValueError:
                raise InvalidRequest("Invalid start or end") from None
            if abs(end) >= 2**53:
                raise InvalidRequest("Invalid start or end")
        if length == 0 and "end" not in query:
            return wire.json_answer(wire.log_page([], await self._reader.log_count(queue, job_id)))
        count = await self._reader.log_count(queue, job_id)
        return await answered(page_of_lines(self._reader.logs(queue, job_id, start, end), count))
