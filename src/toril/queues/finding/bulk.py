"""`/queues/{queue}/bulk`: one action on many jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.responses import Response

from toril.bullmq.ports.jobs import JobControl, JobReader
from toril.bullmq.ports.scanning import JobScanner
from toril.bullmq.rules.actions import Bulk, read_action
from toril.bullmq.rules.job import is_job_id
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.errors import InvalidRequest, InvalidWhere, TorilError, unwrapped
from toril.queues.acknowledging import AT_ONCE, Acknowledging
from toril.queues.child_jobs import ChildJobs
from toril.queues.finding.bulk_run import MOST_FAILED, BulkRun
from toril.queues.finding.scan import Sought
from toril.queues.finding.search import condition_of, stored_states
from toril.queues.shapes import answers
from toril.web.audit import report_later
from toril.web.event_stream import SSE, event_text
from toril.web.openapi.description import About, Reply
from toril.web.request import Request
from toril.web.responses import StreamResponse, json_response
from toril.web.routing import Route

MOST_IDS = 10_000
_MAX_BODY_BYTES = 2**20
_PROGRESS_S = 0.2
_encode = msgspec.json.Encoder().encode

_Steps = AsyncGenerator[None, None]
_BULK = About(
    (
        Reply(answers.BulkDone, f"The counts, and the first {MOST_FAILED} refused jobs with the reason"),
        Reply(str, "The same counts as events: `progress`, then `done` or `error`", 200, "text/event-stream"),
    ),
    body=Bulk,
    errors=(InvalidWhere,),
)


class BulkRoutes:
    """The route that acts on many jobs."""

    def __init__(
        self,
        control: JobControl,
        reader: JobReader,
        scanner: JobScanner,
        children: ChildJobs,
        *,
        names: NameRules,
        acknowledging: Acknowledging = AT_ONCE,
    ) -> None:
        self._control = control
        self._reader = reader
        self._scanner = scanner
        self._children = children
        self._names = names
        self._acknowledging = acknowledging

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/queues/{queue}/bulk", self.bulk, method="POST", right=Right.JOBS_MANAGE, own=True, about=_BULK)]

    async def bulk(self, request: Request) -> Response:
        """Retry, promote, remove or delay many jobs: those with these ids, or all that match a search.

        The action stops when the caller hangs up. With `Accept: text/event-stream` it reports its progress.
        """
        queue = request.queue
        self._names.check(queue)
        asked = read_action(await request.json_text(_MAX_BODY_BYTES), Bulk)
        _check(asked)
        condition = condition_of(asked.where) if asked.where else None
        if condition is not None:
            request.demand(Right.JOBS_READ, queue)  # what matches says what is in it
        sought = Sought(queue, stored_states(asked.states or ()), condition, False, request.hides(queue))

        async def may_remove(queue: str, job_id: str) -> None:
            await self._children.demand(request, Right.JOBS_MANAGE, queue, job_id)

        run = BulkRun(self._control, self._reader, self._scanner, may_remove, asked, sought)
        audited, steps = report_later(request.scope), self._acknowledging.steps(queue, run.steps())
        if b"text/event-stream" in (request.header(b"accept") or b""):
            parts = _progress(run, steps, audited)
            return StreamResponse(await anext(parts), parts, SSE)
        try:
            await _while_there(request, steps)
        finally:
            _tell(run, audited)
        return json_response(_encode(run.counts))


def _check(asked: Bulk) -> None:
    if (asked.ids is None) == (asked.where is None and asked.states is None):
        raise InvalidRequest("Give either ids, or where or states", field="ids")
    if asked.ids is not None and len(asked.ids) > MOST_IDS:
        raise InvalidRequest(f"ids names at most {MOST_IDS} jobs", field="ids")
    for job_id in asked.ids or ():
        if not is_job_id(job_id):
            raise InvalidRequest(f"No job can have the id {job_id[:100]!r}", field="ids")
    if (asked.action == "delay") != (asked.delay_ms is not None):
        raise InvalidRequest("delay_ms is for the action delay, which needs it", field="delay_ms")


async def _while_there(request: Request, steps: _Steps) -> None:
    """Run the action until it ends or the caller hangs up."""
    with unwrapped():
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(_all(steps))
            hanging_up = tasks.create_task(request.disconnected())
            await asyncio.wait((working, hanging_up), return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            hanging_up.cancel()


async def _all(steps: _Steps) -> None:
    async with aclosing(steps):
        async for _ in steps:
            pass


async def _progress(run: BulkRun, steps: _Steps, audited: dict[str, int]) -> AsyncGenerator[bytes, None]:
    told = 0.0  # the first event comes at once
    try:
        async with aclosing(steps):
            async for _ in steps:
                if time.monotonic() - told >= _PROGRESS_S:
                    yield event_text("progress", _encode(run.counts))
                    told = time.monotonic()
    except TorilError as exc:
        yield event_text("error", _encode({"status": exc.status, "code": exc.code, "detail": exc.message}))
    else:
        yield event_text("done", _encode(run.counts))
    finally:
        _tell(run, audited)


def _tell(run: BulkRun, audited: dict[str, int]) -> None:
    counts = run.counts
    audited |= {"matched": counts.matched, "done": counts.done, "refused": counts.refused}
