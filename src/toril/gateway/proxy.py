"""The async proxy's door: every path is an upstream's, but for the jobs API and toril's own API under its prefix.

A request is queued (202 and a job id) or goes past the queue. It decides nothing itself: `toril.core.matching` says
which of the two, `Submissions` stores, `Direct` carries. Errors are proxq's (wire/proxq.md), all made in
`toril.gateway.sourced`.
"""

from __future__ import annotations

from time import perf_counter

import structlog
from msgspec import Struct
from starlette.types import ASGIApp, Receive, Scope, Send

from toril.core.errors import IdempotencyMismatch, InvalidRequest, PayloadTooLarge, TorilError
from toril.core.matching import Bypass, Enqueue, Reason, match, stripped
from toril.core.metrics import ACCEPT_SECONDS, PROXIED, UNMETERED
from toril.core.paths import climbs_out
from toril.core.ports.proxy import Submissions
from toril.core.ports.shared import Meter
from toril.core.upstream import ProxyPolicy, Upstream, queue_name, raw_path
from toril.gateway.direct import Direct
from toril.gateway.exact import raw_target
from toril.gateway.measured import Measured
from toril.gateway.mounting import mounted, moved, url_path
from toril.gateway.passthrough import CUT_OFF
from toril.gateway.proxied_requests import ProxiedRequests, preferred_wait_s
from toril.gateway.proxy_jobs import ProxyJobs
from toril.gateway.proxy_waits import ProxyWaits
from toril.gateway.routing import Answer
from toril.gateway.sourced import own, own_error, redirect, send_own

log = structlog.get_logger(__name__)

OPS = frozenset({"/health", "/ready", "/metrics", "/openapi.json", "/docs"})
"""Which paths of toril's own application are served also where it is off."""
_RAW_OPS = frozenset(path.encode() for path in OPS)


class Doors(Struct, frozen=True):
    """Where a request may go.

    `api` is toril's own application, `jobs` the jobs API, `direct` what carries requests past the queue. `requests` are
    read and `submissions` stored, and `waits` is for those who wait for the answer itself. `meter` hears of what
    upstreams are asked for.
    """

    api: ASGIApp
    jobs: ProxyJobs
    direct: Direct
    requests: ProxiedRequests
    submissions: Submissions
    waits: ProxyWaits
    meter: Meter = UNMETERED


class UpstreamRoute(Struct, frozen=True):
    """An upstream, its BullMQ queue, and the template of its paths: `/api/{path}`, where `path` is all that follows."""

    upstream: Upstream
    queue: str
    template: str


class ProxyDoor:
    """The ASGI application of an instance that has upstreams.

    Args:
        policy: the operator's.
        doors: where requests go.
    """

    def __init__(self, policy: ProxyPolicy, doors: Doors) -> None:
        self.policy = policy
        self._doors = doors
        self._meter = doors.meter
        self.upstreams = tuple(
            UpstreamRoute(each, queue_name(policy.queue, each.prefix), f"{each.raw_prefix.decode()}/{{path}}")
            for each in policy.upstreams
        )
        self._routes = {route.upstream.prefix: route for route in self.upstreams}
        self._jobs_path = raw_path(policy.jobs_path)
        self._api_path = None if policy.api_path is None else raw_path(policy.api_path)
        self._ops_path = raw_path(policy.ops_path)
        self.jobs = doors.jobs
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            return
        scope = mounted(scope)
        target = raw_target(scope)
        path = target.partition(b"?")[0]
        below = self.below_api(path)
        if below is not None:
            await self._doors.api(moved(scope, self._ops_path, below), receive, send)
            return
        answer = Measured(self._meter, scope.get("method", "GET"), send)
        try:
            await self._proxied(scope, receive, answer, target)
        except TorilError as exc:
            if answer.begun:
                log.warning("proxy.broken_off", error=exc.message, code=exc.code)
                await send({"type": CUT_OFF})
            else:
                await send_own(_as_answer(exc), answer, is_socket=kind == "websocket")
        except Exception:
            if answer.begun:
                raise
            log.exception("request.crashed")
            await send_own(own_error(500), answer, is_socket=kind == "websocket")
        finally:
            answer.end()

    def below_api(self, path: bytes) -> bytes | None:
        """The path that toril's own application gets; None where the path is not its."""
        if self._api_path is not None and _is_at(path, self._api_path):
            return path[len(self._api_path) :] or b"/"
        below = path[len(self._ops_path) :]
        return below if _is_at(path, self._ops_path) and below in _RAW_OPS else None

    async def _proxied(self, scope: Scope, receive: Receive, answer: Measured, target: bytes) -> None:
        is_socket = scope["type"] == "websocket"
        if not is_socket and _is_at(target, self._jobs_path):
            asked = self.jobs.route(scope["method"], target[len(self._jobs_path) :])
            if asked is not None:
                answer.route = asked[0].template
                await self.jobs.serve(*asked, scope, receive, answer)
                return
        found = match(self.policy.upstreams, target, scope["headers"])
        if found is None:
            await send_own(own_error(502), answer, is_socket=is_socket)
            return
        route = self._routes[found.upstream.prefix]
        answer.route = route.template
        if climbs_out(found.target):
            raise InvalidRequest("The path leads out of the upstream's own path", field="path")
        if self.draining:
            await send_own(own_error(503, (b"retry-after", b"1")), answer, is_socket=is_socket)
        elif isinstance(found, Enqueue):
            await self._enqueue(scope, receive, answer, found)
        else:
            await self._pass_by(scope, receive, answer, found, route.queue)

    async def _pass_by(self, scope: Scope, receive: Receive, send: Send, found: Bypass, queue: str) -> None:
        upstream = found.upstream
        self._meter.count(PROXIED, (queue, found.reason.value))
        if upstream.direct_mode == "redirect" and found.reason is not Reason.WEBSOCKET:
            await send_own(redirect(upstream.origin.encode() + upstream.forwarded(found.target)), send)
        else:
            await self._doors.direct(scope, receive, send, upstream, found.target)

    def tunnels(self, target: bytes) -> bool:
        """Whether a WebSocket to this raw target is an upstream's, and not one of toril's own API."""
        if self.below_api(target.partition(b"?")[0]) is not None:
            return False
        return any(stripped(upstream.raw_prefix, target) is not None for upstream in self.policy.upstreams)

    def _stored(self, queue: str, began: float) -> None:
        self._meter.observe(ACCEPT_SECONDS, ("proxy",), perf_counter() - began)
        self._meter.count(PROXIED, (queue, "queued"))

    async def _enqueue(self, scope: Scope, receive: Receive, answer: Measured, found: Enqueue) -> None:
        doors = self._doors
        submission = await doors.requests.read(scope, receive, found)
        job_id, queue = doors.submissions.begin(found.upstream)
        wait_s = preferred_wait_s(scope["headers"])
        if not wait_s:
            job_id = await doors.submissions.accept(submission, job_id)
            self._stored(queue, answer.began)
            await send_own(self._accepted(scope, job_id), answer.own(202))
            return
        # First listen, then store: what ends at once is heard.
        async with doors.waits.listening(queue, job_id) as ending:
            accepted = await doors.submissions.accept(submission, job_id)
            self._stored(queue, answer.began)
            if accepted == job_id:
                job = await doors.waits.ended(job_id, ending, wait_s)
            else:  # the same key has been used before
                known = await self.jobs.find(accepted)
                job = None if known is None else await doors.waits.until_ended(known, wait_s)
        if job is None or not await self.jobs.replayed(job, scope, answer):
            await send_own(self._accepted(scope, accepted), answer)

    def _accepted(self, scope: Scope, job_id: str) -> Answer:
        location = url_path(scope, b"%b/%b" % (self._jobs_path, job_id.encode()))
        return own(202, b'{"jobId":"%b"}' % job_id.encode(), (b"location", location), (b"retry-after", b"1"))


def _is_at(path: bytes, prefix: bytes) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/", b"?")


def _as_answer(error: TorilError) -> Answer:
    match error:
        case PayloadTooLarge():
            return own_error(413)
        case InvalidRequest():
            return own_error(400, detail=error.message if error.field is not None else None)
        case IdempotencyMismatch():
            return own_error(422, detail=error.message)
        case _:
            log.warning("proxy.failed", error=error.message, code=error.code)
            return own_error(500, (b"retry-after", b"1"))
