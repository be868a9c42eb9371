"""Routes of pull workers: `/queues/{queue}/lease`, and settling jobs by their lock tokens, singly or in a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import structlog
from msgspec import Struct
from starlette.responses import Response

from toril.bullmq.rules.job import is_job_id
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.errors import JobNotFound, JobRefused, LeaseLost, TorilError, unwrapped
from toril.core.http.headers import Header
from toril.core.http.trace_context import stored_headers
from toril.core.lease import Lease, held_job, in_trace
from toril.queues import job_json
from toril.queues.acknowledging import Acknowledging
from toril.queues.pulls import Pulls
from toril.queues.rules.pull import (
    Action,
    Extended,
    Failed,
    Finished,
    LeaseRequest,
    Released,
    id_of,
    read_action,
    read_batch,
    read_item,
    read_lease_request,
)
from toril.queues.shapes import answers
from toril.telemetry.tracing.requests import request_trace
from toril.web.access_control import Access
from toril.web.auth import bearer
from toril.web.openapi.description import DONE, About, Reply
from toril.web.request import Request
from toril.web.responses import NO_CONTENT, json_response
from toril.web.routing import Route

log = structlog.get_logger(__name__)

_MAX_BODY_BYTES = 64 * 1024
_AT_ONCE = 50
_encode = msgspec.json.Encoder().encode

_LEASE = About(
    (Reply(answers.LeasedJobs, "Jobs with their lock tokens; none if none came in time"),),
    body=LeaseRequest,
    body_required=False,
)
_SETTLE = About(
    (Reply(answers.SettleResults, "The result for each job, in the order of the request"),), body=answers.SettleBatch
)


def _end(summary: str, body: type, *, required: bool = False) -> About:
    errors = (JobNotFound, JobRefused, LeaseLost)
    return About((DONE,), body=body, body_required=required, errors=errors, summary=summary)


_ENDS = {
    "complete": _end("Complete a job, with its lock token.", Finished),
    "fail": _end("Fail the attempt of a job, with its lock token.", Failed, required=True),
    "extend": _end("Extend the lease of a job, with its lock token.", Extended),
    "release": _end("Return a job to the head of its queue, with its lock token.", Released),
}


class _Settling(Struct, frozen=True):
    """The queue of jobs that a request settles, and the context of its span where it is traced."""

    queue: str
    trace: Sequence[Header] | None


class LeaseRoutes:
    """Routes of pull workers, which lease jobs and settle them."""

    def __init__(
        self, pulls: Pulls, acknowledging: Acknowledging, *, names: NameRules, prefix: str, max_body_bytes: int
    ) -> None:
        self._pulls = pulls
        self._acknowledging = acknowledging
        self._names = names
        self._prefix = prefix
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """Return the routes."""
        job = "/queues/{queue}/jobs/{id}"
        return [
            Route("/queues/{queue}/lease", self.lease, method="POST", right=Right.JOBS_LEASE, own=True, about=_LEASE),
            Route(
                "/queues/{queue}/settle", self.settle, method="POST", right=Right.JOBS_LEASE, own=True, about=_SETTLE
            ),
            *(
                Route(f"{job}/{action}", self.end, method="POST", access=Access.LOCK, own=True, about=about)
                for action, about in _ENDS.items()
            ),
        ]

    async def lease(self, request: Request) -> Response:
        """Lease jobs, or wait for the first one."""
        queue = request.queue
        self._names.check(queue)
        pull = self._pulls.begin(queue, read_lease_request(await request.json_text(_MAX_BODY_BYTES)))
        with unwrapped():
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(_hang_up(request, pull.hang_up))
                leases = await self._pulls.lease(pull)
                listening.cancel()
        qualified = job_json.qualified(self._prefix, queue)
        jobs = [in_trace(held_job(qualified, lease), _trace_of(lease)) for lease in leases]
        return json_response(b'{"jobs":%b}' % job_json.array(jobs))

    async def end(self, request: Request) -> Response:
        """Complete, fail, extend or release a job, with its lock token."""
        queue, job_id, name = request.queue, request.path_params["id"], request.scope["route"].path.rpartition("/")[2]
        token = bearer(request.authorization)
        self._names.check(queue)
        if not is_job_id(job_id):
            raise JobNotFound
        action = read_action(name, await request.json_text(self._max_body_bytes))
        await self._settled(_Settling(queue, request_trace(request.scope)), job_id, token, action)
        return NO_CONTENT

    async def _settled(self, settling: _Settling, job_id: str, token: bytes, action: Action) -> None:
        """Settle a job, and return when that may be acknowledged; a lease is extended as well as Redis keeps it."""
        queue, trace = settling.queue, settling.trace
        if isinstance(action, Extended):
            await self._pulls.settle(queue, job_id, token, action)
        else:
            await self._acknowledging.after(queue, lambda: self._pulls.settle(queue, job_id, token, action, trace))

    async def settle(self, request: Request) -> Response:
        """Settle several jobs; a bad item does not affect the others."""
        queue = request.queue
        self._names.check(queue)
        settling = _Settling(queue, request_trace(request.scope))
        items = read_batch(await request.json_text(self._max_body_bytes))
        results: list[answers.SettleResult] = []
        for first in range(0, len(items), _AT_ONCE):
            async with asyncio.TaskGroup() as tasks:
                made = [tasks.create_task(self._settle(settling, item)) for item in items[first : first + _AT_ONCE]]
            results += [task.result() for task in made]
        return json_response(_encode(answers.SettleResults(results)))

    async def _settle(self, settling: _Settling, item: bytes) -> answers.SettleResult:
        try:
            job_id, token, action = read_item(item)
            if not is_job_id(job_id):
                raise JobNotFound
            await self._settled(settling, job_id, token, action)
        except TorilError as error:
            return answers.SettleResult(id_of(item), error.status, error.code, **error.details())
        except Exception:
            # A task boundary: an internal error costs one item, not the others.
            log.exception("settle.crashed", queue=settling.queue)
            return answers.SettleResult(id_of(item), 500, TorilError.code)
        return answers.SettleResult(job_id, 204)


def _trace_of(lease: Lease) -> Sequence[Header]:
    """Return the context that a worker continues: that of its attempt, or without spans that of the job."""
    if lease.trace is not None:
        return lease.trace
    return stored_headers(lease.options.trace) if lease.options.trace else ()


async def _hang_up(request: Request, tell: Callable[[], None]) -> None:
    await request.disconnected()
    tell()
