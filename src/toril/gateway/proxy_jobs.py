"""The jobs API of the async proxy: status, content, cancel. On proxq's wire (wire/proxq.md, "Routes")."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta, Struct
from starlette.types import Receive, Scope, Send

from toril.core.blob import owner
from toril.core.envelope import decode_response
from toril.core.metrics import OPEN_STREAMS, UNMETERED
from toril.core.ports.proxy import Bodies, ProxiedJobs
from toril.core.ports.shared import Meter
from toril.core.proxied_job import ProxiedJob, ProxiedJobStatus, is_owned_by
from toril.gateway import shapes
from toril.gateway.app import send_stream, send_stream_head
from toril.gateway.description import Parameter, ProxiedAbout, Reply
from toril.gateway.proxied_requests import owner_of
from toril.gateway.proxy_waits import ProxyWaits
from toril.gateway.replay import replay
from toril.gateway.routing import SSE, Stream
from toril.gateway.sourced import SOURCE, own, own_error, send_own

log = structlog.get_logger(__name__)

_CANCELLED = b'{"status":"cancelled"}'
MAX_WAIT_S = 60.0
_WAIT = Parameter(
    "wait",
    Annotated[int, Meta(ge=0)],
    f"Seconds to wait for the job's end, {MAX_WAIT_S:.0f} at most; the answer is the status then",
)
_SHOWN = ProxiedAbout(
    "How a job fares",
    (
        Reply(
            ProxiedJobStatus, "The job. With `Accept: text/event-stream`: this JSON now and whenever the status changes"
        ),
        Reply(str, "", content_type="text/event-stream"),
    ),
    (404, 500),
    (_WAIT,),
)
_SHOWN_HEAD = msgspec.structs.replace(
    _SHOWN, summary="Whether there is such a job", answers=(Reply(None, "There is: as GET answers, without the body"),)
)
_CONTENT = ProxiedAbout(
    "The upstream's answer",
    (
        Reply(
            None,
            "The upstream's answer: its status, whichever that is, headers and body as they came, without "
            "`X-Proxq-Source`. Of a HEAD, without the body",
            "default",
        ),
    ),
    (404, 500),
)
_CANCEL = ProxiedAbout(
    "Cancel a job in any state, and forget it; a running attempt is broken off",
    (Reply(shapes.ProxyCancelled, "It is gone"),),
    (404, 500),
)


class JobRoute(Struct, frozen=True):
    """A method, a path template (`/__jobs/{id}/content`), what answers where there is such a job, and what it says."""

    method: str
    template: str
    handler: Callable[[ProxiedJob, Scope, Receive, Send], Awaitable[None]]
    about: ProxiedAbout


class ProxyJobs:
    """Answers what is below the jobs path.

    Args:
        jobs: reads and cancels.
        bodies: gives large bodies back.
        waits: for those who wait for a job's end, or follow its states.
        path: the jobs path.
        owner_only: whether only who submitted a job may see it.
        meter: told of streams that are open.
    """

    def __init__(
        self,
        jobs: ProxiedJobs,
        bodies: Bodies,
        waits: ProxyWaits,
        *,
        path: str,
        owner_only: bool,
        meter: Meter = UNMETERED,
    ) -> None:
        self._jobs = jobs
        self._bodies = bodies
        self._waits = waits
        self._owner_only = owner_only
        self._meter = meter
        one, content = f"{path}/{{id}}", f"{path}/{{id}}/content"
        self._streams = (one,)
        self.routes = (
            JobRoute("GET", one, self._show, _SHOWN),
            JobRoute("HEAD", one, self._show, _SHOWN_HEAD),
            JobRoute("DELETE", one, self._cancel, _CANCEL),
            JobRoute("GET", content, self._content, _CONTENT),
            JobRoute("HEAD", content, self._content, _CONTENT),
        )
        self._by_shape = {(route.method, route.template == content): route for route in self.routes}

    async def find(self, job_id: str) -> ProxiedJob | None:
        """A job, whoever asks."""
        return await self._jobs.find(job_id)

    def route(self, method: str, below: bytes) -> tuple[JobRoute, bytes] | None:
        """The route of a request, and the job's id; None where it is none of this API's, and goes on.

        Args:
            method: the request's.
            below: its target behind the jobs path.
        """
        parts = below.partition(b"?")[0].split(b"/")
        if len(parts) not in (2, 3) or not parts[1] or (len(parts) == 3 and parts[2] != b"content"):
            return None
        route = self._by_shape.get((method, len(parts) == 3))
        return None if route is None else (route, parts[1])

    async def serve(self, route: JobRoute, job_id: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for this job."""
        job = await self._jobs.find(job_id.decode("latin-1"))
        if job is not None and self._owner_only and not is_owned_by(job.name, owner_of(scope["headers"])):
            job = None  # to anybody else it does not exist
        if job is None:
            await send_own(own_error(404), send)
        else:
            await route.handler(job, scope, receive, send)

    async def _show(self, job: ProxiedJob, scope: Scope, receive: Receive, send: Send) -> None:
        if not _wants_events(scope):
            await self._status(job, _wait_s(scope["query_string"]), send)
            return
        if scope["method"] == "HEAD":
            await send_stream_head(SSE, send, headers=(SOURCE,))
            return
        parts = self._waits.states(job)
        stream = Stream(SSE, await anext(parts), parts)
        self._meter.count(OPEN_STREAMS, self._streams)
        try:
            await send_stream(stream, receive, send, headers=(SOURCE,))
        finally:
            self._meter.count(OPEN_STREAMS, self._streams, -1.0)

    async def _status(self, job: ProxiedJob, wait_s: float, send: Send) -> None:
        found = await self._waits.until_ended(job, wait_s) if wait_s else job
        await send_own(own_error(404) if found is None else own(200, found.as_json()), send)

    async def _content(self, job: ProxiedJob, scope: Scope, receive: Receive, send: Send) -> None:
        if not await self.replayed(job, scope, send):
            await send_own(own_error(404), send)

    async def replayed(self, job: ProxiedJob, scope: Scope, send: Send) -> bool:
        """Replay what the upstream answered; False (and nothing sent) where it has not. An answer that cannot be sent,
        which is not one that toril has stored, is our own 500.
        """
        stored = await self._jobs.response(job) if job.status == "completed" else None
        if stored is None:
            return False
        try:
            response = decode_response(stored)
            if response.blob is not None and owner(response.blob.name) != job.id:
                raise ValueError("its body is another job's")
        except ValueError as exc:
            log.error("replay.unusable", job_id=job.id, error=str(exc))
            await send_own(own_error(500), send)
        else:
            await replay(response, self._bodies, scope, send)
        return True

    async def _cancel(self, job: ProxiedJob, scope: Scope, receive: Receive, send: Send) -> None:
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
