"""The OpenAPI description of an instance with upstreams, made of the routes of the async proxy."""

from __future__ import annotations

import re
from collections.abc import Iterator

from toril.proxy.proxied_requests import ASKS, ASKS_CALLBACK
from toril.proxy.routes import OPS, ProxyRouter, UpstreamRoute
from toril.proxy.rules.upstream import raw_path
from toril.proxy.shapes import ProxyAccepted
from toril.web.openapi.description import Parameter, ProxiedAbout, Reply
from toril.web.openapi.document import Served
from toril.web.openapi.proxied_routes import PROXIED_JOBS, UPSTREAMS, ProxiedOperation, ProxyAbout
from toril.web.request_metrics import METHODS

WITH_BODY = ("POST", "PUT", "PATCH")
_TEXT = """\
**The async proxy.** A request to an upstream's path is answered at once with `202` and the id of a job. toril sends
it to the upstream later; the jobs API shows its status and replays the upstream's answer. Responses that toril itself
makes carry `X-Proxq-Source: proxq`. A response without this header is the upstream's: of a request that bypassed the
queue (WebSockets, chunked and large bodies, paths that the operator has named), or that was waited for with `Prefer:
wait`. A path that belongs to no upstream is answered with `502`. Methods that are not listed are accepted too.
toril's own routes are below `{under}`."""
_LOCATION = Parameter("Location", str, "The URL of the job", required=True)
_RETRY_AFTER = Parameter("Retry-After", int, "Seconds to wait before asking for the job", required=True)
_DIRECT = Reply(
    None,
    "The upstream's own answer: to a request that bypassed the queue, or that was waited for. It has no "
    "`X-Proxq-Source`",
    "default",
)
_AWAY = Reply(
    None,
    "The request bypasses the queue: send it to the upstream itself",
    307,
    headers=(Parameter("Location", str, "The URL of the upstream", required=True),),
)
_REFUSALS = (400, 408, 413, 422, 429, 431, 500, 501, 502, 503, 504)


def described(gateway: Served, router: ProxyRouter) -> Served:
    """Return what clients can call if the async proxy is in front of toril's own routes.

    Args:
        gateway: toril's own routes.
        router: the router in front of them.
    """
    policy = router.policy
    under = raw_path(policy.ops_path).decode()
    proxy = ProxyAbout([*_upstreams(router), *_jobs(router)], _TEXT.format(under=under or "/"))
    if policy.api_path is None:
        return Served([route for route in gateway.routes if route.path in OPS], (), under, proxy)
    return Served(gateway.routes, gateway.sockets, under, proxy)


def _upstreams(router: ProxyRouter) -> Iterator[ProxiedOperation]:
    policy = router.policy
    asks = (*ASKS, ASKS_CALLBACK) if policy.callback.secrets else ASKS
    used: set[str] = set()
    for route in router.upstreams:
        name = _name(route, used)
        for method in METHODS:
            about = _submission(route, method, asks)
            yield ProxiedOperation(method, route.path, name, UPSTREAMS, about, owned=policy.owner_only)


def _submission(route: UpstreamRoute, method: str, asks: tuple[Parameter, ...]) -> ProxiedAbout:
    """Return the description of one method of an upstream. It does not contain the upstream's address."""
    accepted = Reply(
        None if method == "HEAD" else ProxyAccepted,
        "The request is a job now; without `X-Proxq-Source`, it is the upstream's own answer",
        202,
        headers=(_LOCATION, _RETRY_AFTER),
    )
    redirects = route.upstream.direct_mode == "redirect"
    return ProxiedAbout(
        f"Send a {method} request to the upstream through the queue.",
        (accepted, *([_AWAY] if redirects else []), _DIRECT),
        _REFUSALS,
        asks,
        "Needs no token of toril; headers for the upstream are passed on. The upstream's path is without the prefix.",
        any_body=method in WITH_BODY,
    )


def _jobs(router: ProxyRouter) -> Iterator[ProxiedOperation]:
    for route in router.jobs.routes:
        about, name = route.described, route.name.partition("_")[2]
        yield ProxiedOperation(route.method, route.path, name, PROXIED_JOBS, about, owned=router.policy.owner_only)


def _name(route: UpstreamRoute, used: set[str]) -> str:
    """Return `upstream_api` for `/api`. Names that would be the same are numbered."""
    name = first = "_".join(["upstream", *re.findall("[A-Za-z0-9]+", route.upstream.prefix)])
    number = 1
    while name in used:
        number += 1
        name = f"{first}_{number}"
    used.add(name)
    return name
