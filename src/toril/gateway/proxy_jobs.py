"""The jobs API of the async proxy: status, content, cancel. On proxq's wire (wire/proxq.md, "Routes")."""

from __future__ import annotations

import structlog
from starlette.types import Receive, Scope, Send

from toril.core.envelope import decode_response
from toril.core.proxied_job import ProxiedJob, is_owned_by
from toril.core.proxy_ports import Bodies, ProxiedJobs
from toril.gateway.app import send_stream
from toril.gateway.events import SSE
from toril.gateway.proxied_requests import owner_of
from toril.gateway.proxy_waits import ProxyWaits
from toril.gateway.replay import replay
from toril.gateway.routing import Stream
from toril.gateway.sourced import SOURCE, own, own_error, send_own

log = structlog.get_logger(__name__)

_CANCELLED = b'{"status":"cancelled"}'
MAX_WAIT_S = 60.0


class ProxyJobs:
    """Answers what is below the jobs path.

    Args:
        jobs: reads and cancels.
        bodies: gives large bodies back.
        waits: for those who wait for a job's end, or follow its states.
        owner_only: whether only who submitted a job may see it.
    """

    def __init__(self, jobs: ProxiedJobs, bodies: Bodies, waits: ProxyWaits, *, owner_only: bool) -> None:
        self._jobs = jobs
        self._bodies = bodies
        self._waits = waits
        self._owner_only = owner_only

    async def find(self, job_id: str) -> ProxiedJob | None:
        """A job, whoever asks."""
        return await self._jobs.find(job_id)

    async def serve(self, scope: Scope, receive: Receive, send: Send, below: bytes) -> bool:
        """Answer a request for `/{id}` or `/{id}/content`; False where it is none of this API's, and goes on.

        Args:
            scope: as the server made it.
            receive: ASGI's.
            send: ASGI's.
            below: the target behind the jobs path.
        """
        path, _, query = below.partition(b"?")
        parts = path.split(b"/")
        if len(parts) not in (2, 3) or not parts[1] or (len(parts) == 3 and parts[2] != b"content"):
            return False
        is_content, method = len(parts) == 3, scope["method"]
        if method not in (("GET", "HEAD") if is_content else ("GET", "DELETE")):
            return False
        job = await self._jobs.find(parts[1].decode("latin-1"))
        if job is not None and self._owner_only and not is_owned_by(job.name, owner_of(scope["headers"])):
            job = None  # to anybody else it does not exist
        if job is None:
            await send_own(own_error(404), send)
        elif is_content:
            await self._content(job, scope, send)
        elif method == "GET" and _wants_events(scope):
            parts_to_come = self._waits.states(job)
            await send_stream(Stream(SSE, await anext(parts_to_come), parts_to_come), receive, send, headers=(SOURCE,))
        elif method == "GET":
            await self._status(job, _wait_s(query), send)
        else:
            await self._cancel(job, send)
        return True

    async def _status(self, job: ProxiedJob, wait_s: float, send: Send) -> None:
        found = await self._waits.until_ended(job, wait_s) if wait_s else job
        await send_own(own_error(404) if found is None else own(200, found.as_json()), send)

    async def _content(self, job: ProxiedJob, scope: Scope, send: Send) -> None:
        if not await self.replayed(job, scope, send):
            await send_own(own_error(404), send)

    async def replayed(self, job: ProxiedJob, scope: Scope, send: Send) -> bool:
        """Replay what the upstream answered; False (and nothing sent) where it has not."""
        stored = await self._jobs.response(job) if job.status == "completed" else None
        if stored is None:
            return False
        await replay(decode_response(stored), self._bodies, scope, send)
        return True

    async def _cancel(self, job: ProxiedJob, send: Send) -> None:
        if await self._jobs.cancel(job):
            log.info("proxy.cancelled", job_id=job.id, status=job.status)
            await send_own(own(200, _CANCELLED), send)
        else:
            await send_own(own_error(404), send)


def _wants_events(scope: Scope) -> bool:
    return any(name == b"accept" and b"text/event-stream" in value.lower() for name, value in scope["headers"])


def _wait_s(query: bytes) -> float:
    """`?wait=20`, a minute at most; what is no number is no wait, as proxq looks at no query."""
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name == b"wait" and value.isdigit():
            return min(float(value[:9]), MAX_WAIT_S)
    return 0.0
