"""Where the async proxy's door sends a request, and what it counts."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.middleware import Middleware
from starlette.responses import Response
from structlog.testing import capture_logs

from toril.core.errors import BlobLost, GroupFull, IdempotencyMismatch, StoreUnavailable
from toril.core.metrics import ACCEPT_SECONDS, PROXIED, REQUEST_SECONDS
from toril.http_client.egress import Egress, EgressPolicy
from toril.proxy.ports import Submission
from toril.proxy.proxied_requests import ProxiedRequests
from toril.proxy.proxied_route import ProxiedRoute
from toril.proxy.routes import ProxyRouter, UpstreamServices
from toril.proxy.rules.grouping import read_group_by
from toril.proxy.rules.upstream import PathFilter, ProxyPolicy, Upstream, queue_name
from toril.testing import FakeMeter
from toril.web.application import Application
from toril.web.mounting import route_path
from toril.web.raw_target import CYCLE, ResponseCutOffError
from toril.web.request import Request
from toril.web.request_metrics import RequestMetrics
from toril.web.sourced import own

POLICY = ProxyPolicy(
    upstreams=(
        Upstream(prefix="/api", url="http://api", path_filter=PathFilter(patterns=(re.compile("auth"),))),
        Upstream(prefix="/grouped", url="http://api", group_by=read_group_by("header:x-tenant")),
        Upstream(prefix="/away", url="http://away/x", direct_mode="redirect", direct_threshold_bytes=1),
    ),
    api_path="/__toril",
)


OWN_SERVER: dict[str, Any] = {CYCLE: None}
"""What tells toril's own server from another one."""


class Spy:
    """Everything around the door; remembers what it was asked for. `fault` is what storing, and passing by, ends with;
    `head` is that of an upstream's answer, none where the client is gone by then.
    """

    def __init__(self, fault: BaseException | None = None, head: tuple[int, Any] | None = (200, ())) -> None:
        self.seen: list[Any] = []
        self.groups: list[str | None] = []
        self.meter = FakeMeter()
        self.sent: list[dict[str, Any]] = []
        self.fault = fault
        self.head = head

    async def api(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(("api", route_path(scope)))
        await own(200, b"{}")(scope, receive, send)

    async def direct(self, scope: Any, receive: Any, send: Any, upstream: Upstream, target: bytes) -> None:
        self.seen.append(("direct", upstream.prefix, target))
        if self.head is not None:
            await send({"type": "http.response.start", "status": self.head[0], "headers": self.head[1]})
        if self.fault is not None:
            raise self.fault

    routes = ()

    def route(self, method: str, below: bytes) -> tuple[ProxiedRoute, str] | None:
        self.seen.append(("jobs", below))
        route = ProxiedRoute("/__jobs/{id}", self.show)
        return (route, "known") if below.startswith(b"/known") else None

    async def show(self, request: Request) -> Response:
        assert request.path_params == {"id": "known"}
        return own(200, b"{}")

    def begin(self, upstream: Upstream) -> tuple[str, str]:
        return "id", queue_name(POLICY.queue, upstream.prefix)

    async def accept(self, submission: Submission, job_id: str) -> str:
        self.seen.append(("queued", submission.upstream.prefix, submission.target))
        self.groups.append(submission.group)
        if self.fault is not None:
            raise self.fault
        return job_id

    @property
    def requests(self) -> list[tuple[str, ...]]:
        return [labels for labels, _ in self.meter.values(REQUEST_SECONDS)]

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def asked(
    target: bytes,
    headers: Sequence[tuple[bytes, bytes]] = (),
    *,
    method: str = "GET",
    draining: bool = False,
    kind: str = "http",
    spy: Spy | None = None,
    server: dict[str, Any] = OWN_SERVER,
) -> Spy:
    found = spy or Spy()
    around: Any = found
    requests = ProxiedRequests(POLICY, Egress(EgressPolicy()))
    services = UpstreamServices(around, around.direct, requests, around, around, found.meter)
    router = ProxyRouter(POLICY, services, around.api)
    router.endpoint.draining = draining
    app = Application(router, [Middleware(RequestMetrics, found.meter)])
    path, _, query = target.partition(b"?")
    scope = {
        "type": kind, "method": method, "raw_path": path, "query_string": query, "path": path.decode(),
        "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http", **server,
    }  # fmt: skip
    await app(scope, around.receive, around.send)
    return found


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        (b"/__toril/queues/x%2Fy", ("api", b"/queues/x%2Fy")),
        (b"/__toril/health", ("api", b"/health")),
        (b"/__toril", ("api", b"/")),
        (b"/api/x?y=1", ("queued", "/api", b"/x?y=1")),
        (b"/api/auth", ("direct", "/api", b"/auth")),
        (b"/__jobs/known", ("jobs", b"/known")),
    ],
)
async def test_a_path_is_served_by_exactly_one_handler(target: bytes, seen: tuple[Any, ...]) -> None:
    spy = await asked(target)
    assert spy.seen == [seen]


async def test_a_path_unknown_to_the_jobs_api_goes_to_an_upstream_or_is_not_found() -> None:
    spy = await asked(b"/__jobs/x/y")
    assert spy.seen == [("jobs", b"/x/y")]
    assert spy.sent[0]["status"] == 502


@pytest.mark.parametrize(
    ("target", "headers", "group"),
    [
        (b"/grouped/x", [(b"x-tenant", b"acme")], "acme"),
        (b"/grouped/x", [], None),
        (b"/grouped/x", [(b"x-tenant", b"acme"), (b"connection", b"x-tenant")], None),
        (b"/api/x", [(b"x-tenant", b"acme")], None),
    ],
)
async def test_a_request_is_in_the_group_that_its_upstream_says(
    target: bytes, headers: list[tuple[bytes, bytes]], group: str | None
) -> None:
    assert (await asked(target, headers)).groups == [group]


async def test_a_group_that_cannot_be_is_refused_before_anything_is_stored() -> None:
    spy = await asked(b"/grouped/x", [(b"x-tenant", b"a" * 257)])
    assert spy.sent[0]["status"] == 400
    assert b"x-tenant" in spy.sent[1]["body"]
    assert spy.seen == []


async def test_every_request_to_an_upstream_is_counted_by_its_way() -> None:
    queued = await asked(b"/api/x")
    assert queued.meter.counts == {(PROXIED, ("default/api", "queued")): 1}
    assert [labels for labels, _ in queued.meter.values(ACCEPT_SECONDS)] == [("proxy",)]
    assert (await asked(b"/api/auth")).meter.counts == {(PROXIED, ("default/api", "path")): 1}
    away = await asked(b"/away/y?z", [(b"content-length", b"2")])
    assert away.meter.counts == {(PROXIED, ("default/away", "large")): 1}
    assert away.sent[0]["status"] == 307
    assert (b"location", b"http://away/x/y?z") in away.sent[0]["headers"]
    assert (await asked(b"/nowhere")).meter.counts == {}


@pytest.mark.parametrize(
    ("target", "headers", "labels"),
    [
        (b"/__jobs/known", [], ("GET", "/__jobs/{id}", "2xx")),
        (b"/api/x/y?z", [], ("GET", "/api/{path}", "2xx")),
        (b"/api/x", [(b"x-proxq-timeout", b"soon")], ("GET", "/api/{path}", "4xx")),
        (b"/api/x", [(b"idempotency-key", b"")], ("GET", "/api/{path}", "4xx")),
        (b"/away/x", [(b"content-length", b"2")], ("GET", "/away/{path}", "3xx")),
        (b"/nowhere/x", [], ("GET", "none", "5xx")),
        (b"/__jobs/x/y", [], ("GET", "none", "5xx")),
    ],
)
async def test_what_the_proxy_answers_is_measured_by_its_route(
    target: bytes, headers: list[tuple[bytes, bytes]], labels: tuple[str, ...]
) -> None:
    assert (await asked(target, headers)).requests == [labels]


async def test_what_toril_serves_below_its_own_prefix_is_measured_once() -> None:
    assert len((await asked(b"/__toril/health")).requests) == 1


@pytest.mark.parametrize("method", ["PURGE", "TRACE", "get", "X" * 99])
async def test_made_up_methods_share_one_label(method: str) -> None:
    assert (await asked(b"/api/x", method=method)).requests == [("other", "/api/{path}", "2xx")]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (IdempotencyMismatch(), 422),
        (GroupFull(), 429),
        (StoreUnavailable("away"), 500),
        (ZeroDivisionError("a secret"), 500),
    ],
)
async def test_a_request_that_cannot_be_stored_is_measured_with_its_answers_status(
    fault: Exception, status: int
) -> None:
    with capture_logs():
        spy = await asked(b"/api/x", spy=Spy(fault))
    assert [message["status"] for message in spy.sent if "status" in message] == [status]
    assert (b"x-proxq-source", b"proxq") in spy.sent[0]["headers"]
    assert b"secret" not in spy.sent[1]["body"]
    assert spy.requests == [("GET", "/api/{path}", f"{status // 100}xx")]


@pytest.mark.parametrize(
    ("status", "label"), [(200, "upstream_2xx"), (101, "upstream_1xx"), (503, "upstream_5xx"), (999, "upstream_9xx")]
)
async def test_an_answer_of_an_upstream_is_told_from_torils_own(status: int, label: str) -> None:
    spy = await asked(b"/api/auth", spy=Spy(head=(status, [(b"x-proxq-source", b"proxq")])))
    assert spy.requests == [("GET", "/api/{path}", label)]


async def test_a_stream_is_measured_to_its_head_and_once() -> None:
    spy = Spy()
    waited: list[int] = []

    async def direct(scope: Any, receive: Any, send: Any, upstream: Upstream, target: bytes) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        waited.append(len(spy.requests))
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})

    spy.direct = direct  # type: ignore[method-assign]
    await asked(b"/api/auth", spy=spy)
    assert (waited, len(spy.requests), len(spy.sent)) == ([1], 1, 4)


async def test_a_client_that_hangs_up_before_its_answer_is_counted() -> None:
    assert (await asked(b"/api/auth", spy=Spy(head=None))).requests == [("GET", "/api/{path}", "none")]


async def test_an_answer_that_cannot_be_ended_is_cut_off() -> None:
    with capture_logs() as logs:
        spy = await asked(b"/api/auth", spy=Spy(BlobLost("gone")))
    assert [message["type"] for message in spy.sent] == ["http.response.start", "toril.response.cut_off"]
    assert [line["event"] for line in logs] == ["proxy.broken_off"]
    assert spy.requests == [("GET", "/api/{path}", "upstream_2xx")]


async def test_an_answer_that_cannot_be_ended_raises_on_servers_other_than_uvicorn() -> None:
    spy = Spy(BlobLost("gone"))
    with pytest.raises(ResponseCutOffError):
        await asked(b"/api/auth", spy=spy, server={})
    assert [message["type"] for message in spy.sent] == ["http.response.start"]


async def test_a_fault_of_ours_behind_the_head_is_not_answered_again() -> None:
    spy = Spy(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await asked(b"/api/auth", spy=spy)
    assert len(spy.sent) == 1


async def test_a_socket_that_leads_nowhere_is_measured_as_the_get_that_it_is() -> None:
    spy = await asked(b"/nowhere", kind="websocket")
    assert spy.sent[0]["type"] == "websocket.http.response.start"
    assert spy.requests == [("GET", "none", "5xx")]


async def test_while_it_shuts_down_nothing_new_is_taken() -> None:
    for target in (b"/api/x", b"/api/auth"):
        spy = await asked(target, draining=True)
        assert (spy.seen, spy.sent[0]["status"]) == ([], 503)
        assert spy.requests == [("GET", "/api/{path}", "5xx")]
        assert (b"x-proxq-source", b"proxq") in spy.sent[0]["headers"]
    assert (await asked(b"/__jobs/known", draining=True)).seen == [("jobs", b"/known")]
