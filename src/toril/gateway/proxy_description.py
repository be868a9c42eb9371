"""What an instance with upstreams serves, for its document: read from the tables by which the async proxy's door itself
finds its way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from toril.core.upstream import raw_path
from toril.gateway.description import Parameter, ProxiedAbout, Reply
from toril.gateway.measured import METHODS
from toril.gateway.openapi import Served
from toril.gateway.openapi_proxy import PROXIED_JOBS, UPSTREAMS, ProxiedRoute, ProxyAbout
from toril.gateway.proxied_requests import ASKS, ASKS_CALLBACK
from toril.gateway.proxy import OPS, ProxyDoor, UpstreamRoute
from toril.gateway.proxy_jobs import JobRoute
from toril.gateway.shapes import ProxyAccepted

WITH_BODY = ("POST", "PUT", "PATCH")
_TEXT = """\
**The async proxy.** A request to an upstream's path is answered `202` with a job's id at once, and toril makes it
in its own time; the jobs API tells how it fares, and gives the upstream's answer back as it came. Everything that toril
itself says carries `X-Proxq-Source: proxq`. An answer without it is the upstream's: that of a request that passed by
the queue (WebSockets, chunked and large bodies, paths that the operator has named), or was waited for with
`Prefer: wait`. A path that no upstream has is answered `502`. Methods that are not listed are taken like those that
are. toril's own routes lie below `{under}`."""
_LOCATION = Parameter("Location", str, "Where the job is", required=True)
_RETRY_AFTER = Parameter("Retry-After", int, "Seconds to wait before asking for it", required=True)
_DIRECT = Reply(
    None,
    "The upstream's own answer, whatever it is: of a request that passed by the queue, or was waited for. It has no "
    "`X-Proxq-Source`",
    "default",
)
_AWAY = Reply(
    None,
    "Past the queue: the upstream itself is to be asked",
    307,
    headers=(Parameter("Location", str, "Where the upstream is", required=True),),
)
_REFUSALS = (400, 408, 413, 422, 431, 500, 501, 502, 503, 504)


def described(gateway: Served, door: ProxyDoor) -> Served:
    """What clients can call where the async proxy stands before toril's own application.

    Args:
        gateway: that application, as it knows its paths.
        door: what stands before it.
    """
    policy = door.policy
    under = raw_path(policy.ops_path).decode()
    proxy = ProxyAbout([*_upstreams(door), *_jobs(door)], _TEXT.format(under=under))
    if policy.api_path is None:
        return Served([route for route in gateway.routes if route.template in OPS], (), under, proxy)
    return Served(gateway.routes, gateway.sockets, under, proxy)


def _upstreams(door: ProxyDoor) -> Iterator[ProxiedRoute]:
    policy = door.policy
    asks = (*ASKS, ASKS_CALLBACK) if policy.callback.secrets else ASKS
    used: set[str] = set()
    for route in door.upstreams:
        name = _name(route, used)
        for method in METHODS:
            about = _submission(route, method, asks)
            yield ProxiedRoute(method, route.template, name, UPSTREAMS, about, owned=policy.owner_only)


def _submission(route: UpstreamRoute, method: str, asks: tuple[Parameter, ...]) -> ProxiedAbout:
    """What is said of one method of an upstream. Where the upstream is, nobody is told."""
    accepted = Reply(
        None if method == "HEAD" else ProxyAccepted,
        "The request is a job; without `X-Proxq-Source`, the upstream's own answer",
        202,
        headers=(_LOCATION, _RETRY_AFTER),
    )
    redirects = route.upstream.direct_mode == "redirect"
    return ProxiedAbout(
        f"Have the upstream asked: {method}",
        (accepted, *([_AWAY] if redirects else []), _DIRECT),
        _REFUSALS,
        asks,
        "Needs no token of toril's; what the upstream needs is passed on. It is asked without the prefix.",
        any_body=method in WITH_BODY,
    )


def _jobs(door: ProxyDoor) -> Iterator[ProxiedRoute]:
    for route in door.jobs.routes:
        yield ProxiedRoute(
            route.method, route.template, _job_name(route), PROXIED_JOBS, route.about, owned=door.policy.owner_only
        )


def _job_name(route: JobRoute) -> str:
    """`proxied_job`, `proxied_job_content`: without the jobs path, so that clients do not change with it."""
    return "_".join(["proxied_job", *(word for word in route.template.partition("{id}")[2].split("/") if word)])


def _name(route: UpstreamRoute, used: set[str]) -> str:
    """`upstream_api` for `/api`. Names that would be the same are numbered."""
    name = first = "_".join(["upstream", *re.findall("[A-Za-z0-9]+", route.upstream.prefix)])
    number = 1
    while name in used:
        number += 1
        name = f"{first}_{number}"
    used.add(name)
    return name
