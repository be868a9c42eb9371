"""The routes of the async proxy: every path is an upstream's, except the jobs API and toril's own API.

A request is queued (202 and a job id) or goes past the queue. `toril.proxy.rules.matching` says which of the two,
`Submissions` stores, `Direct` carries. Errors are proxq's (wire/proxq.md).
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from time import perf_counter
from typing import Any

from msgspec import Struct
from starlette.datastructures import URLPath
from starlette.responses import Response
from starlette.routing import Match as StarletteMatch
from starlette.routing import Mount, NoMatchFound, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from toril.core.errors import InvalidRequest, ShuttingDown
from toril.core.http.paths import climbs_out
from toril.core.metrics import ACCEPT_SECONDS, PROXIED, UNMETERED
from toril.core.ports import Meter
from toril.proxy.direct import Direct
from toril.proxy.jobs import ProxyJobs
from toril.proxy.ports import Submission, Submissions
from toril.proxy.proxied_requests import ProxiedRequests
from toril.proxy.proxied_route import ProxiedRoute
from toril.proxy.rules.matching import Bypass, Enqueue, Match, Reason, match, stripped
from toril.proxy.rules.upstream import ProxyPolicy, Upstream, queue_name, raw_path
from toril.proxy.waits import ProxyWaits
from toril.telemetry.tracing.requests import request_trace
from toril.web.mounting import go_below, url_path
from toril.web.raw_target import raw_target
from toril.web.request_metrics import observed
from toril.web.sourced import own, own_error, redirect

OPS = frozenset({"/health", "/ready", "/metrics", "/openapi.json", "/docs"})
"""The paths of toril's own API that are served also where it is off."""
_RAW_OPS = frozenset(path.encode() for path in OPS)
_FOUND = "toril.upstream_match"
_NO_TUNNELS = own_error(501, detail="WebSockets pass through where `toril serve` is the server")


class UpstreamServices(Struct, frozen=True):
    """The services for requests to upstreams.

    `direct` carries requests past the queue. `requests` reads them and `submissions` stores them; `waits` waits for the
    answer itself; `jobs` knows the jobs that there are. `meter` counts what upstreams are asked for.
    """

    jobs: ProxyJobs
    direct: Direct
    requests: ProxiedRequests
    submissions: Submissions
    waits: ProxyWaits
    meter: Meter = UNMETERED


class UpstreamRoute(ProxiedRoute):
    """An upstream and its BullMQ queue. Its path is `/api/{path}`, where `path` is all that follows; any method."""

    def __init__(self, upstream: Upstream, queue: str, endpoint: UpstreamEndpoint) -> None:
        super().__init__(f"{upstream.raw_prefix.decode()}/{{path}}", endpoint)
        self.methods = None
        self.upstream = upstream
        self.queue = queue

    def matches(self, scope: Scope) -> tuple[StarletteMatch, Scope]:
        """Part of Starlette's routes; the proxy's router does not ask."""
        found = match([self.upstream], raw_target(scope), scope["headers"]) if scope["type"] == "http" else None
        if found is None:
            return StarletteMatch.NONE, {}
        return StarletteMatch.FULL, {"endpoint": self.endpoint, "path_params": {}, _FOUND: found}

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Return the path of this upstream with this `path` in it, which is raw already."""
        if name != self.name or path_params.keys() != {"path"}:
            raise NoMatchFound(name, path_params)
        return URLPath(f"{self.upstream.raw_prefix.decode()}/{path_params['path'].lstrip('/')}", "http")


class UpstreamEndpoint:
    """The ASGI endpoint of all upstreams.

    While it is `draining`, requests to upstreams are refused.

    Args:
        policy: the operator's.
        services: what requests are handed to.
    """

    def __init__(self, policy: ProxyPolicy, services: UpstreamServices) -> None:
        self.draining = False
        self._services = services
        self._meter = services.meter
        self._jobs_path = raw_path(policy.jobs_path)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one request."""
        found: Match = scope[_FOUND]
        if climbs_out(found.target):
            raise InvalidRequest("The path leads out of the upstream's own path", field="path")
        if self.draining:
            raise ShuttingDown
        queue: str = scope["route"].queue
        if scope["type"] == "websocket":  # of a server that has no tunnels
            return _NO_TUNNELS(scope, receive, send)
        if isinstance(found, Enqueue):
            return self._enqueue(scope, receive, send, found)
        return self._pass_by(scope, receive, send, found, queue)

    async def _pass_by(self, scope: Scope, receive: Receive, send: Send, found: Bypass, queue: str) -> None:
        upstream = found.upstream
        self._meter.count(PROXIED, (queue, str(found.reason)))
        if upstream.direct_mode == "redirect" and found.reason is not Reason.WEBSOCKET:
            await redirect(upstream.origin.encode() + upstream.forwarded(found.target))(scope, receive, send)
        else:
            await self._services.direct(scope, receive, send, upstream, found.target)
        observed(scope).ended()

    def _stored(self, queue: str, scope: Scope) -> None:
        took_s = perf_counter() - observed(scope).began
        self._meter.observe(ACCEPT_SECONDS, ("proxy",), took_s, request_trace(scope))
        self._meter.count(PROXIED, (queue, "queued"))

    async def _enqueue(self, scope: Scope, receive: Receive, send: Send, found: Enqueue) -> None:
        services = self._services
        submission = await services.requests.read(scope, receive, found)
        job_id, queue = services.submissions.begin(found.upstream)
        if submission.wait_s:
            response = await self._replayed_in_time(scope, submission, (job_id, queue), submission.wait_s)
        else:
            job_id = await services.submissions.accept(submission, job_id)
            self._stored(queue, scope)
            response = self._accepted(scope, job_id)
        await response(scope, receive, send)

    async def _replayed_in_time(
        self, scope: Scope, submission: Submission, place: tuple[str, str], wait_s: float
    ) -> Response:
        """Store a request and return its answer, or `202` if the answer does not come in time."""
        services, (job_id, queue) = self._services, place
        # First listen, then store: what ends at once is heard.
        async with services.waits.listening(queue, job_id) as ending:
            accepted = await services.submissions.accept(submission, job_id)
            self._stored(queue, scope)
            if accepted == job_id:
                job = await services.waits.ended(job_id, ending, wait_s)
            else:  # the same key has been used before
                known = await services.jobs.find(accepted)
                job = None if known is None else await services.waits.until_ended(known, wait_s)
        replayed = None if job is None else await services.jobs.replayed(job)
        return replayed or self._accepted(scope, accepted)

    def _accepted(self, scope: Scope, job_id: str) -> Response:
        location = url_path(scope, b"%b/%b" % (self._jobs_path, job_id.encode()))
        return own(202, b'{"jobId":"%b"}' % job_id.encode(), (b"location", location), (b"retry-after", b"1"))


class ProxyRouter(Router):
    """The router of an instance that has upstreams.

    Args:
        policy: the operator's.
        services: what requests to upstreams are handed to.
        api: toril's own routes.
    """

    def __init__(self, policy: ProxyPolicy, services: UpstreamServices, api: Router) -> None:
        self.policy = policy
        self.jobs = services.jobs
        self.endpoint = UpstreamEndpoint(policy, services)
        self.upstreams = tuple(
            UpstreamRoute(upstream, queue_name(policy.queue, upstream.prefix), self.endpoint)
            for upstream in policy.upstreams
        )
        self.api = Mount(policy.ops_path, app=api, name="api")
        super().__init__([self.api, *self.jobs.routes, *self.upstreams], redirect_slashes=False)
        self._own = len(self.routes)
        self._by_prefix = {route.upstream.prefix: route for route in self.upstreams}
        self._jobs_path = raw_path(policy.jobs_path)
        self._at_root = policy.api_path == "/"
        self._api_path = None if policy.api_path is None else raw_path(policy.api_path)
        self._ops_path = raw_path(policy.ops_path)
        # Most requests begin with none of these, and are an upstream's.
        self._own_paths = (self._jobs_path, self._ops_path)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        """Part of Starlette."""
        return self.middleware_stack(scope, receive, send)

    def app(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            return self.lifespan(scope, receive, send)
        target = raw_target(scope)
        scope["router"] = self
        served = None
        if self._at_root or target.startswith(self._own_paths):
            served = self._serve_own(scope, receive, send, target)
        if served is not None:
            return served
        if len(self.routes) > self._own:
            return self._serve_by_others(scope, receive, send, partial(self._serve_upstream, target=target))
        return self._serve_upstream(scope, receive, send, target)

    def _serve_own(self, scope: Scope, receive: Receive, send: Send, target: bytes) -> Awaitable[None] | None:
        """Serve a request for toril's own API or for the jobs API; return None where it is for neither."""
        below = self.below_api(target.partition(b"?")[0])
        if below is not None:
            if self._at_root and len(self.routes) > self._own:
                return self._serve_by_others(scope, receive, send, partial(self._serve_api, below=below))
            return self._serve_api(scope, receive, send, below)
        if scope["type"] == "http" and _is_at(target, self._jobs_path):
            asked = self.jobs.route(scope["method"], target[len(self._jobs_path) :])
            if asked is not None:
                scope["route"], scope["path_params"] = asked[0], {"id": asked[1]}
                return asked[0].app(scope, receive, send)
        return None

    def _serve_api(self, scope: Scope, receive: Receive, send: Send, below: bytes) -> Awaitable[None]:
        go_below(scope, self._ops_path, below)
        return self.api.app(scope, receive, send)

    def _serve_upstream(self, scope: Scope, receive: Receive, send: Send, target: bytes) -> Awaitable[None]:
        found = match(self.policy.upstreams, target, scope["headers"])
        if found is None:
            return own_error(502)(scope, receive, send)
        route = self._by_prefix[found.upstream.prefix]
        scope["route"], scope[_FOUND] = route, found
        return route.app(scope, receive, send)

    async def _serve_by_others(self, scope: Scope, receive: Receive, send: Send, otherwise: ASGIApp) -> None:
        if not await self._served_by_others(scope, receive, send):
            await otherwise(scope, receive, send)

    async def _served_by_others(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Let a route that was added to the application later serve the request."""
        for route in self.routes:
            if route is self.api or isinstance(route, ProxiedRoute):
                continue
            matched, found = route.matches(scope)
            if matched is StarletteMatch.FULL:
                scope["route"] = route
                scope.update(found)
                await route.handle(scope, receive, send)
                return True
        return False

    def below_api(self, path: bytes) -> bytes | None:
        """Return the path that toril's own API gets; None if the path is not below it."""
        if self._at_root:
            is_proxied = any(stripped(upstream.raw_prefix, path) is not None for upstream in self.policy.upstreams)
            return None if is_proxied or _is_at(path, self._jobs_path) else path
        if self._api_path is not None and _is_at(path, self._api_path):
            return path[len(self._api_path) :] or b"/"
        below = path[len(self._ops_path) :]
        return below if _is_at(path, self._ops_path) and below in _RAW_OPS else None

    def tunnels(self, target: bytes) -> bool:
        """Return True if a WebSocket to this raw target is an upstream's, and not one of toril's own API."""
        if self.below_api(target.partition(b"?")[0]) is not None:
            return False
        return any(stripped(upstream.raw_prefix, target) is not None for upstream in self.policy.upstreams)


def _is_at(path: bytes, prefix: bytes) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/", b"?")
