"""The jobs API of the async proxy: status, content, cancel. On proxq's wire (wire/proxq.md, "Routes")."""

from __future__ import annotations

import structlog
from starlette.types import Receive, Scope, Send

from toril.core.envelope import decode_response
from toril.core.proxied_job import ProxiedJob
from toril.core.proxy_ports import Bodies, ProxiedJobs
from toril.gateway.replay import replay
from toril.gateway.sourced import own, own_error, send_own

log = structlog.get_logger(__name__)

_CANCELLED = b'{"status":"cancelled"}'


class ProxyJobs:
    """Answers what is below the jobs path.

    Args:
        jobs: reads and cancels.
        bodies: gives large bodies back.
    """

    def __init__(self, jobs: ProxiedJobs, bodies: Bodies) -> None:
        self._jobs = jobs
        self._bodies = bodies

    async def serve(self, scope: Scope, receive: Receive, send: Send, below: bytes) -> bool:
        """Answer a request for `/{id}` or `/{id}/content`; False where it is none of this API's, and goes on.

        Args:
            scope: as the server made it.
            receive: ASGI's.
            send: ASGI's.
            below: the target behind the jobs path.
        """
        path, _, _ = below.partition(b"?")
        parts = path.split(b"/")
        if len(parts) not in (2, 3) or not parts[1] or (len(parts) == 3 and parts[2] != b"content"):
            return False
        is_content, method = len(parts) == 3, scope["method"]
        if method not in (("GET", "HEAD") if is_content else ("GET", "DELETE")):
            return False
        job = await self._jobs.find(parts[1].decode("latin-1"))
        if job is None:
            await send_own(own_error(404), send)
        elif is_content:
            await self._content(job, scope, send)
        elif method == "GET":
            await send_own(own(200, job.as_json()), send)
        else:
            await self._cancel(job, send)
        return True

    async def _content(self, job: ProxiedJob, scope: Scope, send: Send) -> None:
        stored = await self._jobs.response(job) if job.status == "completed" else None
        if stored is None:
            await send_own(own_error(404), send)
            return
        await replay(decode_response(stored), self._bodies, scope, send)

    async def _cancel(self, job: ProxiedJob, send: Send) -> None:
        if await self._jobs.cancel(job):
            log.info("proxy.cancelled", job_id=job.id, status=job.status)
            await send_own(own(200, _CANCELLED), send)
        else:
            await send_own(own_error(404), send)
