"""Pull workers: `/queues/{queue}/lease`, and the ends of a job by its lock token, one by one or in a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from toril.core.access import Right
from toril.core.errors import JobNotFound, JobRefused, LeaseLost, TorilError, unwrapped
from toril.core.job import is_job_id
from toril.core.lease import held_job
from toril.core.ports.work import Pulling
from toril.core.pull import (
    Ask,
    Extended,
    Failed,
    Finished,
    Released,
    id_of,
    read_action,
    read_ask,
    read_batch,
    read_item,
)
from toril.core.queue_name import NameRules
from toril.gateway import shapes, wire
from toril.gateway.auth import bearer
from toril.gateway.description import DONE, About, Reply
from toril.gateway.routing import Access, Answer, Request, Route

log = structlog.get_logger(__name__)

_MAX_BODY_BYTES = 64 * 1024
_AT_ONCE = 50
_encode = msgspec.json.Encoder().encode

_LEASE = About(
    (Reply(shapes.LeasedJobs, "Jobs with their lock tokens; none when the time is over"),),
    body=Ask,
    body_required=False,
)
_SETTLE = About((Reply(shapes.SettleResults, "What came of each"),), body=shapes.SettleBatch)


def _end(summary: str, body: type, *, required: bool = False) -> About:
    errors = (JobNotFound, JobRefused, LeaseLost)
    return About((DONE,), body=body, body_required=required, errors=errors, summary=summary)


_ENDS = {
    "complete": _end("Complete a job, with its lock token.", Finished),
    "fail": _end("Fail a job's attempt, with its lock token.", Failed, required=True),
    "extend": _end("Hold a job for longer, with its lock token.", Extended),
    "release": _end("Give a job back to the head of its queue, with its lock token.", Released),
}


class LeaseRoutes:
    """Hands jobs to whoever asks for them, and takes what becomes of them."""

    def __init__(self, pulls: Pulling, *, names: NameRules, prefix: str, max_body_bytes: int) -> None:
        self._pulls = pulls
        self._names = names
        self._prefix = prefix
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """The routes of this module."""
        job = "/queues/{queue}/jobs/{id}"
        return [
            Route("POST", "/queues/{queue}/lease", Access.TOKEN, self.lease, Right.JOBS_LEASE, own=True, about=_LEASE),
            Route(
                "POST", "/queues/{queue}/settle", Access.TOKEN, self.settle, Right.JOBS_LEASE, own=True, about=_SETTLE
            ),
            *(
                Route("POST", f"{job}/{action}", Access.LOCK, self.end, own=True, about=about)
                for action, about in _ENDS.items()
            ),
        ]

    async def lease(self, request: Request) -> Answer:
        """Jobs with their lock tokens, as an endpoint is sent them; as soon as there is one."""
        queue = request.queue
        self._names.check(queue)
        pull = self._pulls.begin(queue, read_ask(await request.json(_MAX_BODY_BYTES)))
        with unwrapped():
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(_hang_up(request, pull.hang_up))
                leases = await self._pulls.lease(pull)
                listening.cancel()
        qualified = wire.qualified(self._prefix, queue)
        jobs = [held_job(qualified, lease) for lease in leases]
        return wire.json_answer(b'{"jobs":%b}' % wire.array(jobs))

    async def end(self, request: Request) -> Answer:
        """Complete, fail, extend or release a job, with its lock token."""
        queue, job_id, name = request.queue, request.segment(3), request.segment(4)
        token = bearer(request.authorization)
        self._names.check(queue)
        if not is_job_id(job_id):
            raise JobNotFound
        action = read_action(name, await request.json(self._max_body_bytes))
        await self._pulls.settle(queue, job_id, token, action)
        return wire.NO_CONTENT

    async def settle(self, request: Request) -> Answer:
        """The same for several jobs; the results are in their order, and one bad item spoils nothing."""
        queue = request.queue
        self._names.check(queue)
        items = read_batch(await request.json(self._max_body_bytes))
        results: list[dict[str, object]] = []
        for first in range(0, len(items), _AT_ONCE):
            async with asyncio.TaskGroup() as tasks:
                settling = [tasks.create_task(self._settle(queue, item)) for item in items[first : first + _AT_ONCE]]
            results += [task.result() for task in settling]
        return wire.json_answer(_encode({"results": results}))

    async def _settle(self, queue: str, item: bytes) -> dict[str, object]:
        try:
            job_id, token, action = read_item(item)
            if not is_job_id(job_id):
                raise JobNotFound
            await self._pulls.settle(queue, job_id, token, action)
        except TorilError as error:
            return {"id": id_of(item), "status": error.status, "code": error.code, **error.details()}
        except Exception:
            # A task boundary: a fault of ours costs one item, not the others.
            log.exception("settle.crashed", queue=queue)
            return {"id": id_of(item), "status": 500, "code": TorilError.code}
        return {"id": job_id, "status": 204}


async def _hang_up(request: Request, tell: Callable[[], None]) -> None:
    await request.hung_up()
    tell()
