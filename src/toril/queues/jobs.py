"""`/queues/{queue}/jobs/{id}`: reads one job, and stores the progress and log lines that its worker reports."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from starlette.responses import Response

from toril.bullmq.ports.jobs import JobReader, JobReporter
from toril.bullmq.rules.job import is_job_id
from toril.bullmq.rules.json_values import decode_json
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.errors import InvalidRequest, JobNotFound
from toril.core.made_attempt import JobAttempt
from toril.queues import job_json
from toril.queues.job_actions import EXPANSIONS, Expansion, expansions
from toril.queues.large_answers import answered, page_of_lines
from toril.queues.queues import WINDOW, window
from toril.queues.shapes import answers
from toril.web.access_control import Access
from toril.web.auth import check_lock
from toril.web.openapi.description import OK_TEXT, About, Parameter, Reply
from toril.web.request import Request
from toril.web.responses import OK, json_response
from toril.web.routing import Route

_GET = About(
    (Reply(answers.ExpandedJob, "The job"),),
    parameters=(
        Parameter("expand", str, f"What to add, with commas: {', '.join(EXPANSIONS)}"),
        Parameter("state", str, "The same as `expand=state`, whatever its value"),
    ),
    errors=(JobNotFound,),
)
_PROGRESS = About((OK_TEXT,), body=Any, errors=(JobNotFound,))
_LOG = About((OK_TEXT,), body=str | answers.LogText, errors=(JobNotFound,))
_LOGS = About(
    (Reply(answers.JobLogs, "The lines, and the number of all lines"),),
    parameters=(*WINDOW, Parameter("end", int, "The last line, instead of `length`; -1 is the newest line")),
)


class JobAttempts(Struct, frozen=True):
    """The last attempts of a job, the newest first."""

    attempts: list[JobAttempt]


_ATTEMPTS = About((Reply(JobAttempts, "The last 50 attempts, the newest first"),), errors=(JobNotFound,))


class JobRoutes:
    """Routes that read one job, and take the reports of its worker, whose lock token is checked on every call."""

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
        """Return the routes."""
        path = "/queues/{queue}/jobs/{id}"
        return [
            Route(path, self.get, right=Right.JOBS_READ, about=_GET),
            Route(f"{path}/progress", self.progress, method="POST", access=Access.LOCK, about=_PROGRESS),
            Route(f"{path}/logs", self.log, method="POST", access=Access.LOCK, about=_LOG),
            Route(f"{path}/logs", self.logs, right=Right.JOBS_READ, about=_LOGS),
            Route(f"{path}/attempts", self.attempts, right=Right.JOBS_READ, own=True, about=_ATTEMPTS),
        ]

    async def attempts(self, request: Request) -> Response:
        """List the attempts of a job."""
        queue, job_id = request.job(self._names)
        return json_response(msgspec.json.encode(JobAttempts(await self._reader.attempts(queue, job_id))))

    async def _held(self, request: Request) -> tuple[str, str]:
        queue, job_id = request.queue, request.path_params["id"]
        check_lock(request.authorization, await self._reader.lock_token(queue, job_id))
        self._names.check(queue)
        return queue, job_id

    async def get(self, request: Request) -> Response:
        """Get a job."""
        queue = request.queue
        self._names.check(queue)
        job_id = request.path_params["id"]
        parts = expansions(request.query())
        fields = await self._reader.get(queue, job_id) if is_job_id(job_id) else None
        if fields is None:
            raise JobNotFound
        qualified = job_json.qualified(self._prefix, queue)
        shown = job_json.stored(qualified, job_id.encode(), fields, hide=request.hides(queue))
        if parts:
            shown = shown[:-1] + await self._expansion.fields(request, queue, job_id, parts) + b"}"
        return json_response(shown)

    async def progress(self, request: Request) -> Response:
        """Store the whole JSON body as the progress of a job."""
        queue, job_id = await self._held(request)
        body = await request.json_text(self._max_body_bytes)
        decode_json(body)
        if not await self._reporter.progress(queue, job_id, body.strip()):
            raise JobNotFound
        return OK

    async def log(self, request: Request) -> Response:
        """Append a line to the log of a job: a JSON string, or `{"log": "…"}`."""
        queue, job_id = await self._held(request)
        line = decode_json(await request.json_text(self._max_body_bytes))
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
        return OK

    async def logs(self, request: Request) -> Response:
        """List the log lines of a job, the oldest first."""
        queue, job_id = request.queue, request.path_params["id"]
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
            return json_response(job_json.log_page([], await self._reader.log_count(queue, job_id)))
        count = await self._reader.log_count(queue, job_id)
        return await answered(page_of_lines(self._reader.logs(queue, job_id, start, end), count))
