"""The jobs API of the async proxy: status, content, cancel. On proxq's wire (wire/proxq.md, "Routes")."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
import structlog
from msgspec import Meta
from starlette.responses import Response

from toril.core.blob import owner
from toril.proxy import shapes
from toril.proxy.ports import Bodies, ProxiedJobs
from toril.proxy.proxied_route import ProxiedRoute
from toril.proxy.replay import ReplayedResponse
from toril.proxy.rules.envelope import decode_response
from toril.proxy.rules.grouping import owner_of
from toril.proxy.rules.proxied_job import ProxiedJob, ProxiedJobStatus, is_owned_by
from toril.proxy.waits import ProxyWaits
from toril.web.event_stream import SSE
from toril.web.openapi.description import Parameter, ProxiedAbout, Reply
from toril.web.request import Request
from toril.web.responses import StreamResponse
from toril.web.sourced import SOURCE, own, own_error

log = structlog.get_logger(__name__)

_CANCELLED = b'{"status":"cancelled"}'
MAX_WAIT_S = 60.0
_WAIT = Parameter(
    "wait",
    Annotated[int, Meta(ge=0)],
    f"Seconds to wait for the end of the job, at most {MAX_WAIT_S:.0f}; the answer is its status at that time",
)
_SHOWN = ProxiedAbout(
    "Get the status of a proxied job.",
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
    _SHOWN, summary="Check that a proxied job exists.", answers=(Reply(None, "The job exists"),)
)
_CONTENT = ProxiedAbout(
    "Replay the upstream's answer.",
    (
        Reply(
            None,
            "The upstream's answer: its status, headers and body as they came, without `X-Proxq-Source`; for HEAD "
            "without the body",
            "default",
        ),
    ),
    (404, 500),
)
_CANCEL = ProxiedAbout(
    "Cancel a proxied job in any state and forget it; a running attempt is aborted.",
    (Reply(shapes.ProxyCancelled, "The job is cancelled and forgotten"),),
    (404, 500),
)


class ProxyJobs:
    """The jobs API.

    Args:
        jobs: reads and cancels.
        bodies: gives large bodies back.
        waits: for callers that wait for a job's end, or follow its states.
        path: the jobs path.
        owner_only: whether only the caller that submitted a job may see it.
    """

    def __init__(self, jobs: ProxiedJobs, bodies: Bodies, waits: ProxyWaits, *, path: str, owner_only: bool) -> None:
        self._jobs = jobs
        self._bodies = bodies
        self._waits = waits
        self._owner_only = owner_only
        one, content = f"{path}/{{id}}", f"{path}/{{id}}/content"
        self.routes = (
            _route(one, self.show, "GET", _SHOWN),
            _route(one, self.show, "HEAD", _SHOWN_HEAD),
            _route(one, self.cancel, "DELETE", _CANCEL),
            _route(content, self.content, "GET", _CONTENT),
            _route(content, self.content, "HEAD", _CONTENT),
        )
        self._by_shape = {(route.method, route.path == content): route for route in self.routes}

    async def find(self, job_id: str) -> ProxiedJob | None:
        """Return a job, without checking its owner."""
        return await self._jobs.find(job_id)

    def route(self, method: str, below: bytes) -> tuple[ProxiedRoute, str] | None:
        """Return the route of a request, and the job's id; None if it is not a route of this API.

        Args:
            method: the request's.
            below: its target behind the jobs path.
        """
        parts = below.partition(b"?")[0].split(b"/")
        if len(parts) not in (2, 3) or not parts[1] or (len(parts) == 3 and parts[2] != b"content"):
            return None
        route = self._by_shape.get((method, len(parts) == 3))
        return None if route is None else (route, parts[1].decode("latin-1"))

    async def show(self, request: Request) -> Response:
        """Return the status of a job as JSON, or stream its changes."""
        job = await self._visible(request)
        if job is None:
            return own_error(404)
        if _wants_events(request):
            parts = self._waits.states(job)
            first = b"" if request.method == "HEAD" else await anext(parts)
            return StreamResponse(first, parts, SSE, headers=(SOURCE,))
        wait_s = _wait_s(request.scope["query_string"])
        found = await self._waits.until_ended(job, wait_s) if wait_s else job
        return own_error(404) if found is None else own(200, found.as_json())

    async def content(self, request: Request) -> Response:
        """Replay the upstream's answer."""
        job = await self._visible(request)
        return (None if job is None else await self.replayed(job)) or own_error(404)

    async def replayed(self, job: ProxiedJob) -> Response | None:
        """Return the upstream's answer; None if there is none.

        An answer that cannot be sent, which is not one that toril has stored, is our own 500.
        """
        stored = await self._jobs.response(job) if job.status == "completed" else None
        if stored is None:
            return None
        try:
            response = decode_response(stored)
            if response.blob is not None and owner(response.blob.name) != job.id:
                raise ValueError("its body is another job's")
        except ValueError as exc:
            log.error("replay.unusable", job_id=job.id, error=str(exc))
            return own_error(500)
        return ReplayedResponse(response, self._bodies)

    async def cancel(self, request: Request) -> Response:
        """Cancel a job and forget it."""
        job = await self._visible(request)
        if job is None or not await self._jobs.cancel(job):
            return own_error(404)
        log.info("proxy.cancelled", job_id=job.id, status=job.status)
        return own(200, _CANCELLED)

    async def _visible(self, request: Request) -> ProxiedJob | None:
        job = await self._jobs.find(request.path_params["id"])
        if job is not None and self._owner_only and not is_owned_by(job.name, owner_of(request.scope["headers"])):
            return None  # to other callers it does not exist
        return job


def _route(
    path: str, endpoint: Callable[[Request], Awaitable[Response]], method: str, about: ProxiedAbout
) -> ProxiedRoute:
    # By what stands behind the jobs path, so that clients that are generated do not change with it.
    words = path.partition("{id}")[2].split("/")
    name = "_".join([method.lower(), "proxied_job", *(word for word in words if word)])
    return ProxiedRoute(path, endpoint, method=method, described=about, name=name)


def _wants_events(request: Request) -> bool:
    headers = request.scope["headers"]
    return any(name == b"accept" and b"text/event-stream" in value.lower() for name, value in headers)


def _wait_s(query: bytes) -> float:
    """Return the seconds in `?wait=`, at most a minute; 0 for anything but a number, because proxq reads no query."""
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name == b"wait" and value.isdigit():
            return min(float(value[:9]), MAX_WAIT_S)
    return 0.0
