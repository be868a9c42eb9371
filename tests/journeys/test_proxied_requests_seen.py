"""Proxied requests as those who operate the proxy see them: shown, replayed, cancelled, under rights on their queue."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.journeys.test_rights import PROXIED, shown
from tests.support.endpoint import hang
from tests.support.proxq import Backend, Proxq, answering, started
from tests.support.tokens import ask, token
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril.core.access import Right
from toril.core.redaction import HIDDEN
from toril.web.routing import Route

SECRET = "c4ll3rs-s3cr3t"
NOBODY = "00000000-0000-4000-8000-00000000"
LARGE = bytes(range(256)) * 1200
RIGHTS = ["jobs:read", "jobs:add", "jobs:manage", "queues:read"]


@pytest.fixture(scope="module")
def proxq(valkey: ValkeyProcess, backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxq]:
    """A toril with two upstreams, below which its own API is at `/own`."""
    document = {
        "upstreams": [{"prefix": "/api", "url": backend.url}, {"prefix": "/other", "url": backend.url}],
        "apiPath": "/own",
        "payloads": {"redis_max": 100_000},
        "tokens": [
            token("all", ["*"]),
            token("blind", RIGHTS),
            token("other", ["*"], ["*/other"]),
            token("reader", ["*:read"]),
            token("adder", ["jobs:add"]),
            *(token(right.replace(":", "-"), [right]) for right in Right),
            *(token(f"{right.replace(':', '-')}-payloads", [right, Right.PAYLOADS_READ]) for right in Right),
        ],
    }
    process, found = started(tmp_path_factory.mktemp("seen"), valkey, document)
    try:
        process.start("/own/ready")
        yield found
        assert process.complaints() == []
    finally:
        process.close()


def call(proxq: Proxq, path: str, method: str = "GET", who: str = "all") -> httpx.Response:
    """A request to toril's own API."""
    return ask(proxq.process.url, f"{who}-secret", method, f"/own{path}")


def answered(proxq: Proxq, path: str, body: bytes = b'{"a": 1}') -> str:
    """The id of a request that was answered."""
    headers = [("Authorization", f"Bearer {SECRET}"), ("X-A", "1"), ("content-type", "application/json")]
    job_id = proxq.submit("POST", f"/api{path}?n=1", headers, body)
    proxq.is_in(job_id, "completed")
    return job_id


def test_upstreams_are_listed_with_their_requests_by_state(proxq: Proxq, backend: Backend) -> None:
    answered(proxq, backend.path())
    shown = call(proxq, "/upstreams").json()
    assert shown["jobs_path"] == "/__jobs"
    assert [(one["prefix"], one["queue"], one["url"], one["paused"]) for one in shown["upstreams"]] == [
        ("/api", f"{proxq.queue}/api", backend.url, False),
        ("/other", f"{proxq.queue}/other", backend.url, False),
    ]
    assert shown["upstreams"][0]["counts"]["completed"] >= 1
    assert shown["upstreams"][1]["counts"] == {"queued": 0, "running": 0, "completed": 0, "failed": 0}
    assert [one["prefix"] for one in call(proxq, "/upstreams", who="other").json()["upstreams"]] == ["/other"]
    assert call(proxq, "/whoami", who="other").json()["doors"] == ["queues", "proxy"]


def test_a_request_and_its_answer_are_shown_as_they_were(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(answering(201, [("Set-Cookie", SECRET), ("X-B", "2")], b"\x00\xff"))
    job_id = answered(proxq, path)
    shown = call(proxq, f"/proxied/{job_id}").json()
    assert (shown["id"], shown["queue"], shown["upstream"]) == (job_id, f"{proxq.queue}/api", "/api")
    assert (shown["status"], shown["attempts_made"], shown["failed_reason"]) == ("completed", 1, None)
    assert shown["accepted_at"] <= shown["started_at"] <= shown["finished_at"] < shown["kept_until"]
    sent = shown["request"]
    assert (sent["method"], sent["target"], sent["body_bytes"]) == ("POST", f"{path}?n=1", 8)
    assert ["authorization", f"Bearer {SECRET}"] in sent["headers"]
    assert (shown["response"]["status"], shown["response"]["body_bytes"]) == (201, 2)
    assert ["X-B", "2"] in shown["response"]["headers"]
    hidden = call(proxq, f"/proxied/{job_id}", who="blind")
    assert SECRET not in hidden.text
    assert hidden.json()["request"]["headers"][0] == ["authorization", HIDDEN]


def test_bodies_are_served_as_untyped_bytes_to_callers_with_the_right(proxq: Proxq, backend: Backend) -> None:
    job_id = answered(proxq, backend.path(answering(200, [("content-type", "text/html")], b"<script>")))
    body = call(proxq, f"/proxied/{job_id}/response")
    assert (body.content, body.headers["content-type"]) == (b"<script>", "application/octet-stream")
    assert body.headers["x-content-type-options"] == "nosniff"
    assert call(proxq, f"/proxied/{job_id}/request").content == b'{"a": 1}'
    assert call(proxq, f"/proxied/{job_id}/request?offset=2&length=3").content == b'a": '[:3]
    assert call(proxq, f"/proxied/{job_id}/request?offset=99").content == b""
    refused = call(proxq, f"/proxied/{job_id}/request", who="blind")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert "payloads:read" in refused.json()["detail"]
    assert call(proxq, f"/proxied/{job_id}/request?length=0").json()["field"] == "length"


def test_a_part_of_a_large_answer_is_read_from_where_it_is_kept(proxq: Proxq, backend: Backend) -> None:
    job_id = answered(proxq, backend.path(answering(200, (), LARGE)))
    assert call(proxq, f"/proxied/{job_id}").json()["response"]["body_bytes"] == len(LARGE)
    assert call(proxq, f"/proxied/{job_id}/response").content == LARGE
    part = call(proxq, f"/proxied/{job_id}/response?offset=70000&length=100000").content
    assert part == LARGE[70_000:170_000]
    assert call(proxq, f"/proxied/{job_id}/response?offset=999999").content == b""


def test_a_replay_is_the_same_request_with_another_id(proxq: Proxq, backend: Backend) -> None:
    path = backend.path()
    job_id = answered(proxq, path, b"again")
    again = call(proxq, f"/proxied/{job_id}/replay", "POST", who="adder").json()["jobId"]
    assert again != job_id
    proxq.is_in(again, "completed")
    first, second = backend.called(path, 2)
    assert (first.method, first.target, first.body, first.headers) == (
        second.method,
        second.target,
        second.body,
        second.headers,
    )


def test_a_request_that_runs_has_no_answer_and_can_be_cancelled(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(lambda _: hang())
    job_id = proxq.submit("GET", f"/api{path}")
    backend.called(path)
    shown = call(proxq, f"/proxied/{job_id}").json()
    assert (shown["status"], shown["response"], shown["kept_until"]) == ("running", None, None)
    assert call(proxq, f"/proxied/{job_id}/response").status_code == 409
    assert call(proxq, f"/proxied/{job_id}", "DELETE", who="reader").status_code == 403
    assert call(proxq, f"/proxied/{job_id}", "DELETE").status_code == 204
    assert call(proxq, f"/proxied/{job_id}", "DELETE").status_code == 404
    assert call(proxq, f"/proxied/{job_id}").status_code == 404


@pytest.mark.parametrize(
    ("method", "below"), [("GET", ""), ("DELETE", ""), ("GET", "/request"), ("GET", "/response"), ("POST", "/replay")]
)
def test_rights_are_those_on_the_queue_whether_or_not_the_request_is_there(
    proxq: Proxq, backend: Backend, method: str, below: str
) -> None:
    job_id = answered(proxq, backend.path())
    absent = NOBODY + job_id[-4:]
    for one in (job_id, absent):
        refused = call(proxq, f"/proxied/{one}{below}", method, who="other")
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    for one in (absent, "none", "00000000-0000-4000-8000-000000000000"):
        assert call(proxq, f"/proxied/{one}{below}", method).status_code == 404


def test_replaying_and_cancelling_are_in_the_audit_log(proxq: Proxq, backend: Backend) -> None:
    job_id = answered(proxq, backend.path())
    call(proxq, f"/proxied/{job_id}/replay", "POST")
    call(proxq, f"/proxied/{job_id}", "DELETE")

    def listed() -> Any:
        lines = [line for line in call(proxq, "/audit").json()["lines"] if line.get("id") == job_id]
        return [line["action"] for line in lines] == ["DELETE /proxied/{id}", "POST /proxied/{id}/replay"]

    eventually(listed, what="both lines")


@pytest.mark.parametrize("route", PROXIED, ids=shown)
def test_a_route_lets_in_its_right_and_refuses_all_others_alike(proxq: Proxq, backend: Backend, route: Route) -> None:
    job_id = answered(proxq, backend.path())
    path = route.path.replace("{id}", job_id)
    reads_body = route.path.endswith(("/request", "/response"))
    for right in sorted(Right, key=lambda one: one is route.right):  # the one that may change it comes last
        who = right.replace(":", "-")
        refused = call(proxq, path, route.method, who)
        if right is route.right and not reads_body:
            assert refused.status_code in {200, 204}, (right, refused.text)
        else:
            assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), (right, refused.text)
        if reads_body:
            status = call(proxq, path, route.method, f"{who}-payloads").status_code
            assert status == (200 if right is route.right else 403), right
    # Where the token has no rights on the queue, a request that is there and one that is not look alike.
    if "{id}" in route.path:
        there, not_there = (
            call(proxq, route.path.replace("{id}", one), route.method, "other")
            for one in (job_id, NOBODY + job_id[-4:])
        )
        assert (there.status_code, there.text) == (not_there.status_code, not_there.text)
        assert there.status_code == 403
