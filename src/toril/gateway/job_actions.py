"""Actions on one job: remove, retry, promote, data, priority, delay; and what `?expand=` adds to it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from toril.core.access import Right
from toril.core.actions import ChangeDelay, ChangePriority, Nothing, RetryJob, read_action
from toril.core.errors import InvalidRequest, JobNotFound, JobRefused
from toril.core.job_faults import decode_json
from toril.core.ports.jobs import JobControl, JobReader
from toril.core.queue_name import NameRules
from toril.gateway import wire
from toril.gateway.description import DONE, About, Parameter
from toril.gateway.family import Family
from toril.gateway.large_answers import gathered, page_of_lines
from toril.gateway.routing import Access, Answer, Handler, Request, Route, job_of

_MAX_BODY_BYTES = 64 * 1024
EXPANSIONS = ("state", "logs", "dependencies")
_MOST_LOGS = 1000
_encode = msgspec.json.Encoder().encode


class JobActionRoutes:
    """What BullMQ's Job does, over HTTP."""

    def __init__(self, control: JobControl, family: Family, *, names: NameRules, max_body_bytes: int) -> None:
        self._control = control
        self._family = family
        self._names = names
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """The routes of this module."""

        def route(method: str, path: str, handler: Handler, about: About) -> Route:
            template = f"/queues/{{queue}}/jobs/{{id}}{path}"
            return Route(method, template, Access.TOKEN, handler, Right.JOBS_MANAGE, own=True, about=about)

        def action(body: Any, *, required: bool = False) -> About:
            return About((DONE,), body=body, body_required=required, errors=(JobNotFound, JobRefused))

        children = Parameter(
            "children", Literal["keep", "remove"], "Whether a parent's children stay; they go unless told"
        )

        return [
            route("DELETE", "", self.remove, About((DONE,), parameters=(children,), errors=(JobNotFound, JobRefused))),
            route("POST", "/retry", self.retry, action(RetryJob)),
            route("POST", "/promote", self.promote, action(Nothing)),
            route("PUT", "/data", self.data, action(Any, required=True)),
            route("PUT", "/priority", self.priority, action(ChangePriority)),
            route("PUT", "/delay", self.delay, action(ChangeDelay, required=True)),
        ]

    async def remove(self, request: Request) -> Answer:
        """Remove the job, with its children unless `?children=keep`."""
        children = request.query().get("children", "remove")
        if children not in {"keep", "remove"}:
            raise InvalidRequest(f"Invalid children {children[:100]}, must be keep or remove", field="children")
        queue, job_id = job_of(request, self._names)
        if children == "remove":
            await self._family.demand(request, Right.JOBS_MANAGE, queue, job_id)
        await self._control.remove(queue, job_id, children=children == "remove")
        return wire.NO_CONTENT

    async def retry(self, request: Request) -> Answer:
        """Move a finished job back to waiting."""
        asked = read_action(await request.json(_MAX_BODY_BYTES), RetryJob)
        await self._control.retry(*job_of(request, self._names), asked)
        return wire.NO_CONTENT

    async def promote(self, request: Request) -> Answer:
        """Let a delayed job wait no longer."""
        read_action(await request.json(_MAX_BODY_BYTES), Nothing)
        await self._control.promote(*job_of(request, self._names))
        return wire.NO_CONTENT

    async def data(self, request: Request) -> Answer:
        """Replace the job's data: the body, byte for byte."""
        queue, job_id = job_of(request, self._names)
        data = await request.json(self._max_body_bytes)
        decode_json(data, msgspec.Raw)
        await self._control.update_data(queue, job_id, data)
        return wire.NO_CONTENT

    async def priority(self, request: Request) -> Answer:
        """Give the job another priority."""
        asked = read_action(await request.json(_MAX_BODY_BYTES), ChangePriority)
        await self._control.change_priority(*job_of(request, self._names), asked.priority, lifo=asked.lifo)
        return wire.NO_CONTENT

    async def delay(self, request: Request) -> Answer:
        """Let a delayed job wait so long from now."""
        asked = read_action(await request.json(_MAX_BODY_BYTES), ChangeDelay)
        await self._control.change_delay(*job_of(request, self._names), asked.delay)
        return wire.NO_CONTENT


def expansions(query: dict[str, str]) -> tuple[str, ...]:
    """What of a job is asked for beside its fields: `?expand=state,logs,dependencies`, or `?state`.

    Raises:
        InvalidRequest: there is no such part.
    """
    asked = [part for part in query.get("expand", "").split(",") if part]
    for part in asked:
        if part not in EXPANSIONS:
            raise InvalidRequest(f"Invalid expand {part[:100]}, must be of {', '.join(EXPANSIONS)}", field="expand")
    return tuple(dict.fromkeys([*asked, *(("state",) if "state" in query else ())]))


class Expansion:
    """Reads what is to be added to a job."""

    def __init__(self, control: JobControl, reader: JobReader, family: Family) -> None:
        self._control = control
        self._reader = reader
        self._family = family

    async def fields(self, request: Request, queue: str, job_id: str, parts: tuple[str, ...]) -> bytes:
        """These parts as fields to put behind a job's own."""
        found = b""
        for part in parts:
            if part == "state":
                found += b',"state":%b' % _encode(await self._control.state(queue, job_id))
            elif part == "logs":
                count = await self._reader.log_count(queue, job_id)
                lines = page_of_lines(self._reader.logs(queue, job_id, 0, _MOST_LOGS - 1), count)
                found += b',"logs":%b' % await gathered(lines, "read the logs page by page")
            else:
                waits = await self._family.dependencies(request.caller, queue, job_id)
                processed = b",".join(
                    b"%b:%b" % (_encode(key), wire.value(value, hide=request.hides(self._family.queue_of(key))))
                    for key, value in waits.processed.items()
                )
                found += b',"dependencies":{"processed":{%b},"unprocessed":%b,"ignored":%b,"failed":%b}' % (
                    processed, _encode(waits.unprocessed), _encode(waits.ignored), _encode(waits.failed),
                )  # fmt: skip
        return found
