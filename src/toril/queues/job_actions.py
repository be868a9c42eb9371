"""Routes that act on one job (remove, retry, promote, data, priority, delay), and what `?expand=` adds to a job."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from starlette.responses import Response

from toril.bullmq.ports.jobs import JobControl, JobReader
from toril.bullmq.rules.actions import ChangeDelay, ChangePriority, Nothing, RetryJob, read_action
from toril.bullmq.rules.json_values import decode_json
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.errors import InvalidRequest, JobNotFound, JobRefused
from toril.queues import job_json
from toril.queues.acknowledging import AT_ONCE, Acknowledging
from toril.queues.child_jobs import ChildJobs
from toril.queues.large_answers import gathered, page_of_lines
from toril.web.openapi.description import DONE, About, Parameter
from toril.web.request import Request
from toril.web.responses import NO_CONTENT
from toril.web.routing import Handler, Route

_MAX_BODY_BYTES = 64 * 1024
EXPANSIONS = ("state", "logs", "dependencies")
_MOST_LOGS = 1000
_encode = msgspec.json.Encoder().encode


class JobActionRoutes:
    """Routes that act on one job."""

    def __init__(
        self,
        control: JobControl,
        children: ChildJobs,
        *,
        names: NameRules,
        max_body_bytes: int,
        acknowledging: Acknowledging = AT_ONCE,
    ) -> None:
        self._control = control
        self._children = children
        self._names = names
        self._max_body_bytes = max_body_bytes
        self._confirmed = acknowledging.handler

    def routes(self) -> list[Route]:
        """Return the routes."""

        def route(method: str, path: str, handler: Handler, about: About) -> Route:
            template, confirmed = f"/queues/{{queue}}/jobs/{{id}}{path}", self._confirmed(handler)
            return Route(template, confirmed, method=method, right=Right.JOBS_MANAGE, own=True, about=about)

        def action(body: Any, *, required: bool = False) -> About:
            return About((DONE,), body=body, body_required=required, errors=(JobNotFound, JobRefused))

        children = Parameter(
            "children", Literal["keep", "remove"], "`keep` keeps the children of the job; they are removed by default"
        )

        return [
            route("DELETE", "", self.remove, About((DONE,), parameters=(children,), errors=(JobNotFound, JobRefused))),
            route("POST", "/retry", self.retry, action(RetryJob)),
            route("POST", "/promote", self.promote, action(Nothing)),
            route("PUT", "/data", self.data, action(Any, required=True)),
            route("PUT", "/priority", self.priority, action(ChangePriority)),
            route("PUT", "/delay", self.delay, action(ChangeDelay, required=True)),
        ]

    async def remove(self, request: Request) -> Response:
        """Remove a job and its children."""
        children = request.query().get("children", "remove")
        if children not in {"keep", "remove"}:
            raise InvalidRequest(f"Invalid children {children[:100]}, must be keep or remove", field="children")
        queue, job_id = request.job(self._names)
        if children == "remove":
            await self._children.demand(request, Right.JOBS_MANAGE, queue, job_id)
        await self._control.remove(queue, job_id, children=children == "remove")
        return NO_CONTENT

    async def retry(self, request: Request) -> Response:
        """Retry a failed or completed job."""
        asked = read_action(await request.json_text(_MAX_BODY_BYTES), RetryJob)
        await self._control.retry(*request.job(self._names), asked)
        return NO_CONTENT

    async def promote(self, request: Request) -> Response:
        """Move a delayed job to waiting."""
        read_action(await request.json_text(_MAX_BODY_BYTES), Nothing)
        await self._control.promote(*request.job(self._names))
        return NO_CONTENT

    async def data(self, request: Request) -> Response:
        """Replace the data of a job with the body, byte for byte."""
        queue, job_id = request.job(self._names)
        data = await request.json_text(self._max_body_bytes)
        decode_json(data, msgspec.Raw)
        await self._control.update_data(queue, job_id, data)
        return NO_CONTENT

    async def priority(self, request: Request) -> Response:
        """Change the priority of a job."""
        asked = read_action(await request.json_text(_MAX_BODY_BYTES), ChangePriority)
        await self._control.change_priority(*request.job(self._names), asked.priority, lifo=asked.lifo)
        return NO_CONTENT

    async def delay(self, request: Request) -> Response:
        """Change the delay of a delayed job, counted from now."""
        asked = read_action(await request.json_text(_MAX_BODY_BYTES), ChangeDelay)
        await self._control.change_delay(*request.job(self._names), asked.delay)
        return NO_CONTENT


def expansions(query: dict[str, str]) -> tuple[str, ...]:
    """Return the parts to add to a job: those in `?expand=state,logs,dependencies`, and `state` for `?state`.

    Raises:
        InvalidRequest: there is no such part.
    """
    if not query:
        return ()
    asked = [part for part in query.get("expand", "").split(",") if part]
    for part in asked:
        if part not in EXPANSIONS:
            raise InvalidRequest(f"Invalid expand {part[:100]}, must be of {', '.join(EXPANSIONS)}", field="expand")
    return tuple(dict.fromkeys([*asked, *(("state",) if "state" in query else ())]))


class Expansion:
    """Reads the parts that `?expand=` adds to a job."""

    def __init__(self, control: JobControl, reader: JobReader, children: ChildJobs) -> None:
        self._control = control
        self._reader = reader
        self._children = children

    async def fields(self, request: Request, queue: str, job_id: str, parts: tuple[str, ...]) -> bytes:
        """Return these parts as JSON fields that follow the job's own."""
        found = b""
        for part in parts:
            if part == "state":
                found += b',"state":%b' % _encode(await self._control.state(queue, job_id))
            elif part == "logs":
                count = await self._reader.log_count(queue, job_id)
                lines = page_of_lines(self._reader.logs(queue, job_id, 0, _MOST_LOGS - 1), count)
                found += b',"logs":%b' % await gathered(lines, "read the logs page by page")
            else:
                waits = await self._children.dependencies(request.caller, queue, job_id)
                processed = b",".join(
                    b"%b:%b"
                    % (
                        _encode(key),
                        job_json.value(value, b"returnvalue", hide=request.hides(self._children.queue_of(key))),
                    )
                    for key, value in waits.processed.items()
                )
                found += b',"dependencies":{"processed":{%b},"unprocessed":%b,"ignored":%b,"failed":%b}' % (
                    processed, _encode(waits.unprocessed), _encode(waits.ignored), _encode(waits.failed),
                )  # fmt: skip
        return found
