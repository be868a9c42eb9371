"""Groups of proxied requests: each tenant has its own limit at the upstream, and none waits for another."""

from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.support.endpoint import Answer, Call, Endpoint, Gate, respond
from tests.support.proxq import Proxq, started
from tests.support.tokens import ask, token
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

UPSTREAM = {"prefix": "/api", "groupBy": "header:X-Tenant", "groupConcurrency": 1}


@pytest.fixture
def upstream() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def proxq(valkey: ValkeyProcess, upstream: Endpoint, tmp_path: Any) -> Iterator[Proxq]:
    """A toril whose upstream gets one request of each tenant at once."""
    document = {
        "upstreams": [UPSTREAM | {"url": f"http://127.0.0.1:{upstream.port}"}],
        "concurrency": 10,
        "tokens": [token("all", ["*"])],
    }
    process, found = started(tmp_path, valkey, document)
    try:
        process.start("/__toril/ready")
        yield found
        assert process.complaints() == []
    finally:
        process.close()


def tenant(came: Call) -> str:
    return came.header("x-tenant") or "-"


def submit(proxq: Proxq, name: str | None) -> str:
    headers = [] if name is None else [("X-Tenant", name)]
    return proxq.submit("POST", "/api/work", headers, b"x")


def call(proxq: Proxq, path: str, method: str = "GET", body: Any = None) -> httpx.Response:
    """A request to toril's own API."""
    return ask(proxq.process.url, "all-secret", method, f"/__toril{path}", body)


def at(proxq: Proxq, group: str) -> str:
    """The path of a group."""
    return f"/queues/{quote(f'{proxq.queue}/api', safe='')}/groups/{group}"


def test_a_tenant_has_one_request_at_the_upstream_and_others_go_on(proxq: Proxq, upstream: Endpoint) -> None:
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()
    gate = upstream.gate()

    async def behave(came: Call) -> Answer:
        running[tenant(came)] += 1
        most[tenant(came)] = max(most[tenant(came)], running[tenant(came)])
        if tenant(came) == "noisy":
            await gate.passed()
        running[tenant(came)] -= 1
        return respond(body=b"done")

    upstream.behaviour = behave
    noisy = [submit(proxq, "noisy") for _ in range(6)]
    quiet = [submit(proxq, name) for name in ("a", "b", None) for _ in range(3)]
    for job_id in quiet:
        proxq.is_in(job_id, "completed")
    assert [tenant(came) for came in upstream.calls].count("noisy") == 1, "the others overtook it"
    shown = call(proxq, at(proxq, "noisy")).json()
    assert (shown["waiting"], shown["active"], shown["effective"]["concurrency"]) == (5, 1, 1)
    gate.open()
    for job_id in noisy:
        proxq.is_in(job_id, "completed")
    assert most["noisy"] == most["a"] == most["b"] == 1


def test_a_full_group_is_refused_by_torils_own_429(proxq: Proxq, upstream: Endpoint) -> None:
    gate: Gate = upstream.gate()

    async def behave(_: Call) -> Answer:
        await gate.passed()
        return respond(body=b"done")

    upstream.behaviour = behave
    answer = call(proxq, at(proxq, "acme"), "PUT", {"max_waiting": 1})
    assert answer.status_code == 200, answer.text
    first = submit(proxq, "acme")
    upstream.wait_for_calls(1)
    second = submit(proxq, "acme")
    refused = proxq.send("POST", "/api/work", [("X-Tenant", "acme")], b"x")
    assert (refused.status, refused.is_ours, refused.value("retry-after")) == (429, True, "1")
    assert refused.json["code"] == "TOO_MANY_REQUESTS"
    replay = call(proxq, f"/proxied/{first}/replay", "POST")
    assert (replay.status_code, replay.json()["code"]) == (429, "group_full")
    other = submit(proxq, "other")
    gate.open()
    for job_id in (first, second, other):
        proxq.is_in(job_id, "completed")
    eventually(lambda: call(proxq, at(proxq, "acme")).json()["waiting"] == 0, what="no one waits")
    again = call(proxq, f"/proxied/{first}/replay", "POST").json()["jobId"]
    proxq.is_in(again, "completed")
    assert [tenant(came) for came in upstream.calls].count("acme") == 3


def test_a_tenant_that_can_be_no_group_is_refused(proxq: Proxq, upstream: Endpoint) -> None:
    refused = proxq.send("POST", "/api/work", [("X-Tenant", "a" * 257)], b"x")
    assert (refused.status, refused.is_ours) == (400, True)
    assert "x-tenant" in refused.json["message"]
    assert upstream.calls == []
