"""Where the async proxy's door sends a request, and what it counts."""

import re
from collections import Counter
from typing import Any

import pytest

from toril.core.egress import Egress
from toril.core.metrics import ACCEPT_SECONDS, PROXIED, Metric
from toril.core.policy import EgressPolicy
from toril.core.proxy_ports import Submission
from toril.core.upstream import PathFilter, ProxyPolicy, Upstream
from toril.gateway.proxied_requests import ProxiedRequests
from toril.gateway.proxy import Doors, ProxyDoor

POLICY = ProxyPolicy(
    upstreams=(
        Upstream(prefix="/api", url="http://api", path_filter=PathFilter(patterns=(re.compile("auth"),))),
        Upstream(prefix="/away", url="http://away/x", direct_mode="redirect", direct_threshold_bytes=1),
    ),
    api_path="/__toril",
)


class Spy:
    """Everything around the door; remembers what it was asked for."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.counted: Counter[tuple[Metric, tuple[str, ...]]] = Counter()
        self.sent: list[dict[str, Any]] = []

    async def api(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(("api", scope["raw_path"], scope["path"]))

    async def direct(self, scope: Any, receive: Any, send: Any, upstream: Upstream, target: bytes) -> None:
        self.seen.append(("direct", upstream.prefix, target))

    async def serve(self, scope: Any, receive: Any, send: Any, below: bytes) -> bool:
        self.seen.append(("jobs", below))
        return below.startswith(b"/known")

    def begin(self, upstream: Upstream) -> tuple[str, str]:
        return "id", "queue"

    async def accept(self, submission: Submission, job_id: str) -> str:
        self.seen.append(("queued", submission.upstream.prefix, submission.target))
        return job_id

    def count(self, metric: Metric, labels: tuple[str, ...] = (), by: float = 1.0) -> None:
        self.counted[metric, labels] += 1

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        self.counted[metric, labels] += 1

    async def receive(self) -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(self, message: Any) -> None:
        self.sent.append(message)


async def asked(target: bytes, headers: list[tuple[bytes, bytes]] | None = None, *, draining: bool = False) -> Spy:
    spy: Any = Spy()
    requests = ProxiedRequests(POLICY, Egress(EgressPolicy()))
    door = ProxyDoor(POLICY, Doors(spy.api, spy, spy.direct, requests, spy, spy, spy))
    door.draining = draining
    path, _, query = target.partition(b"?")
    scope = {
        "type": "http", "method": "GET", "raw_path": path, "query_string": query, "path": path.decode(),
        "headers": headers or [], "client": ("127.0.0.1", 1), "scheme": "http",
    }  # fmt: skip
    await door(scope, spy.receive, spy.send)
    found: Spy = spy
    return found


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        (b"/__toril/queues/x%2Fy", ("api", b"/queues/x%2Fy", "/queues/x/y")),
        (b"/__toril/health", ("api", b"/health", "/health")),
        (b"/__toril", ("api", b"/", "/")),
        (b"/api/x?y=1", ("queued", "/api", b"/x?y=1")),
        (b"/api/auth", ("direct", "/api", b"/auth")),
        (b"/__jobs/known", ("jobs", b"/known")),
    ],
)
async def test_a_path_leads_to_one_door(target: bytes, seen: tuple[Any, ...]) -> None:
    spy = await asked(target)
    assert spy.seen == [seen]


async def test_what_the_jobs_api_does_not_know_is_an_upstreams_or_nobodys() -> None:
    spy = await asked(b"/__jobs/x/y")
    assert spy.seen == [("jobs", b"/x/y")]
    assert spy.sent[0]["status"] == 502


async def test_every_request_to_an_upstream_is_counted_by_its_way() -> None:
    queued = await asked(b"/api/x")
    assert queued.counted == {(PROXIED, ("default/api", "queued")): 1, (ACCEPT_SECONDS, ("proxy",)): 1}
    assert (await asked(b"/api/auth")).counted == {(PROXIED, ("default/api", "path")): 1}
    away = await asked(b"/away/y?z", [(b"content-length", b"2")])
    assert away.counted == {(PROXIED, ("default/away", "large")): 1}
    assert away.sent[0]["status"] == 307
    assert (b"location", b"http://away/x/y?z") in away.sent[0]["headers"]
    assert (await asked(b"/nowhere")).counted == {}


async def test_while_it_shuts_down_nothing_new_is_taken() -> None:
    for target in (b"/api/x", b"/api/auth"):
        spy = await asked(target, draining=True)
        assert (spy.seen, spy.sent[0]["status"]) == ([], 503)
        assert (b"x-proxq-source", b"proxq") in spy.sent[0]["headers"]
    assert (await asked(b"/__jobs/known", draining=True)).seen == [("jobs", b"/known")]
