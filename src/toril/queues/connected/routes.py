"""`/connections`: the workers on sockets, and those that hold leases, with what they have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec
from msgspec import Struct
from starlette.responses import Response

from toril.bullmq.leasing.active_jobs import ActiveJob
from toril.bullmq.rules.queue_name import NameRules
from toril.core.access import Right
from toril.core.ports import Now
from toril.core.times import moment_text
from toril.engine.lock_tokens import LockTokens, owner_of
from toril.engine.ports import LeasedQueues
from toril.queues.connected.open_workers import MOST_JOBS, ConnectedSocket, OpenWorkers
from toril.web.openapi.description import About, Parameter, Reply
from toril.web.request import Request
from toril.web.responses import json_response
from toril.web.routing import Route

_MOST_QUEUES = 100


class ActiveJobs(Protocol):
    """Reads the jobs that workers have."""

    async def of(self, queue: str) -> list[ActiveJob]:
        """Return the active jobs of a queue that are locked."""
        ...


class LeasedByWorker(Struct, frozen=True):
    """A job that is leased over HTTP: since when, and until when unless that is extended (RFC 3339)."""

    id: str
    since: str | None
    until: str


class LeaseHolder(Struct, frozen=True):
    """A worker with leases: the name that it gives, or null for all that give none; and the first of its jobs."""

    queue: str
    worker: str | None
    holding: int
    jobs: list[LeasedByWorker]


class Connections(Struct, frozen=True):
    """Workers on sockets and with leases. `left_out` is how many sockets and queues with leases are not shown."""

    sockets: list[ConnectedSocket]
    leases: list[LeaseHolder]
    left_out: int


_CONNECTIONS = About(
    (Reply(Connections, f"Those on queues that the token may see, each with at most {MOST_JOBS} of its jobs"),),
    parameters=(Parameter("queue", str, "Only those on this queue"),),
)


class ConnectionRoutes:
    """Shows the workers that are connected by a socket or hold leases.

    Args:
        workers: the workers on sockets.
        leased: the queues that have leases over HTTP.
        active: reads the jobs of such a queue.
        tokens: recognizes the lock tokens of the fleet.
        now: the clock of the locks.
    """

    def __init__(
        self,
        workers: OpenWorkers,
        leased: LeasedQueues,
        active: ActiveJobs,
        tokens: LockTokens,
        *,
        names: NameRules,
        now: Now,
    ) -> None:
        self._workers = workers
        self._leased = leased
        self._active = active
        self._tokens = tokens
        self._names = names
        self._now = now

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/connections", self.all, right=Right.WORKERS_READ, own=True, about=_CONNECTIONS)]

    async def all(self, request: Request) -> Response:
        """List the workers on sockets and with leases of the whole fleet, and which jobs they have."""
        queue = request.query().get("queue")
        if queue is not None:
            self._names.check(queue)
            request.demand(Right.WORKERS_READ, queue)
        sees: Callable[[str], bool] = request.caller.sees if queue is None else queue.__eq__
        sockets, left_out = await self._workers.all()
        leased = [queue] if queue is not None else sorted(filter(sees, await self._leased.all()))
        leases: list[LeaseHolder] = []
        for one in leased[:_MOST_QUEUES]:
            leases += self._holders(one, await self._active.of(one))
        shown = Connections(
            [one for one in sockets if sees(one.queue)], leases, left_out + max(0, len(leased) - _MOST_QUEUES)
        )
        return json_response(msgspec.json.encode(shown))

    def _holders(self, queue: str, jobs: Iterable[ActiveJob]) -> list[LeaseHolder]:
        """Return who leases these jobs over HTTP, by name. Jobs of other workers have other tokens."""
        now_s = self._now()
        by_name: dict[str | None, list[LeasedByWorker]] = {}
        for job in jobs:
            if owner_of(job.token) or not self._tokens.knows(queue, job.token):
                continue
            since = None if job.began_ms is None else moment_text(job.began_ms / 1000)
            leased = LeasedByWorker(
                job.job_id.decode(errors="replace"), since, moment_text(now_s + max(0, job.lock_ms) / 1000)
            )
            by_name.setdefault(job.worker, []).append(leased)
        return [
            LeaseHolder(queue, name, len(held), held[:MOST_JOBS])
            for name, held in sorted(by_name.items(), key=lambda item: item[0] or "")
        ]
