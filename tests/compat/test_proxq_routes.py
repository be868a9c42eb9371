"""proxq's routes (wire/proxq.md, "Routes"): what is accepted, asked for, cancelled and refused, and who says so."""

import re
import socket
import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.endpoint import Call, drop, hang, respond
from tests.support.proxq import Backend, Proxq, StartProxq, exchange
from tests.support.waiting import eventually

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture
def proxq(shared_proxq: StartProxq, backend: Backend) -> Proxq:
    return shared_proxq(
        {
            "upstreams": [
                {"prefix": "/api", "url": backend.url, "maxBodySize": 1000, "timeout": "20s"},
                {"prefix": "/one", "url": backend.url},
            ]
        }
    )


def test_a_request_is_accepted_with_a_job_id(proxq: Proxq, backend: Backend) -> None:
    accepted = proxq.send("POST", f"/api{backend.path()}", body=b"x")
    assert (accepted.status, accepted.value("content-type")) == (202, "application/json")
    assert list(accepted.json) == ["jobId"]
    assert UUID4.fullmatch(accepted.job_id)
    assert accepted.is_ours
    assert accepted.value("location") == f"/__jobs/{accepted.job_id}"
    assert accepted.value("retry-after") == "1"


def test_ids_cannot_be_guessed(proxq: Proxq, backend: Backend) -> None:
    path = backend.path()
    ids = [proxq.submit("GET", f"/api{path}") for _ in range(20)]
    assert len({job_id[:8] for job_id in ids}) == 20


def test_a_completed_job_shows_its_completion_time(proxq: Proxq, backend: Backend) -> None:
    second = timedelta(seconds=1)
    before = datetime.now(UTC)
    job_id = proxq.submit("GET", f"/api{backend.path()}")
    job = proxq.is_in(job_id, "completed")
    assert list(job) == ["id", "status", "completedAt"]
    assert job["id"] == job_id
    at = datetime.strptime(job["completedAt"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert before - 2 * second <= at <= datetime.now(UTC) + second
    answer = proxq.status(job_id)
    assert (answer.is_ours, answer.value("content-type")) == (True, "application/json")


def test_a_job_is_queued_then_running_then_completed(start_proxq: StartProxq, valkey, backend: Backend) -> None:  # type: ignore[no-untyped-def]
    gate = backend.endpoint.gate()

    async def wait(call: Call):  # type: ignore[no-untyped-def]
        await gate.passed()
        return respond(body=b"done")

    path = backend.path(wait)
    proxq = start_proxq(valkey, {"concurrency": 1, "upstreams": [{"prefix": "/", "url": backend.url}]})
    first = proxq.submit("GET", path)
    backend.called(path)
    second = proxq.submit("GET", path)
    assert proxq.is_in(first, "running") == {"id": first, "status": "running"}
    assert proxq.status(second).json == {"id": second, "status": "queued"}
    for job_id in (first, second):
        content = proxq.content(job_id)
        assert (content.status, content.json["code"], content.is_ours) == (404, "NOT_FOUND", True)
    gate.open()
    proxq.is_in(second, "completed")
    assert proxq.content(first).body == b"done"


def test_a_job_without_an_answer_fails_with_a_reason(proxq: Proxq, backend: Backend) -> None:
    job_id = proxq.submit("GET", f"/api{backend.path(drop())}")
    job = proxq.is_in(job_id, "failed")
    assert list(job) == ["id", "status", "error"]
    assert job["error"]
    assert backend.url.removeprefix("http://") not in job["error"]
    assert (proxq.content(job_id).status, proxq.content(job_id).is_ours) == (404, True)


@pytest.mark.parametrize("status", [200, 201, 301, 302, 400, 404, 418, 500, 502, 503, 599])
def test_any_answer_completes_the_job(proxq: Proxq, backend: Backend, status: int) -> None:
    path = backend.path(respond(status, "Whatever", [("location", "/elsewhere")], b"body"))
    answer = proxq.replayed("GET", f"/api{path}")
    assert (answer.status, answer.body, answer.value("location")) == (status, b"body", "/elsewhere")
    assert len(backend.calls(path)) == 1


@pytest.mark.parametrize("job_id", ["nope", "9606009f-58c9-4919-855b-37bb76ff2a80", "1", "%2e", "wait", "meta"])
def test_an_unknown_job_is_not_found_at_every_route(proxq: Proxq, job_id: str) -> None:
    for method, path in (
        ("GET", job_id),
        ("DELETE", job_id),
        ("GET", f"{job_id}/content"),
        ("HEAD", f"{job_id}/content"),
    ):
        answer = proxq.send(method, f"/__jobs/{path}")
        assert (answer.status, answer.is_ours) == (404, True)
        if method != "HEAD":
            assert answer.json == {"code": "NOT_FOUND", "message": "Not found"}


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/__jobs/x"),
        ("GET", "/__jobs"),
        ("GET", "/__jobs/"),
        ("GET", "/__jobs/x/other"),
        ("PUT", "/__jobs/x/content"),
        ("GET", "/__jobsx/y"),
        ("GET", "/nope"),
        ("GET", "/api2/x"),
        ("GET", "/"),
    ],
)
def test_a_path_that_matches_no_upstream_is_a_bad_gateway(proxq: Proxq, method: str, target: str) -> None:
    answer = proxq.send(method, target)
    assert (answer.status, answer.is_ours) == (502, True)
    if method != "HEAD":
        assert answer.json == {"code": "BAD_GATEWAY", "message": "Bad Gateway"}


def test_head_of_a_job_is_answered_as_get_is_without_its_body(shared_proxq: StartProxq, backend: Backend) -> None:
    proxq = shared_proxq({"upstreams": [{"prefix": "/", "url": backend.url}]})
    job_id = proxq.submit("GET", backend.path())
    proxq.is_in(job_id, "completed")
    for headers in ([], [("accept", "text/event-stream")]):
        head = proxq.send("HEAD", f"/__jobs/{job_id}", headers)
        assert (head.status, head.is_ours, head.body) == (200, True, b"")
        assert head.value("content-type") == ("text/event-stream;charset=utf-8" if headers else "application/json")
    assert head.value("content-length") is None
    assert proxq.send("HEAD", f"/__jobs/{job_id}").value("content-length") == str(len(proxq.status(job_id).body))
    unknown = proxq.send("HEAD", "/__jobs/unknown")
    assert (unknown.status, unknown.is_ours) == (404, True)
    assert backend.calls("/__jobs") == []


def test_other_methods_below_the_jobs_path_are_proxied(shared_proxq: StartProxq, backend: Backend) -> None:
    proxq = shared_proxq({"jobsPath": "/my/jobs", "upstreams": [{"prefix": "/", "url": backend.url}]})
    assert proxq.replayed("POST", "/my/jobs/x", body=b"1").body == b"1"
    assert proxq.send("GET", "/my/jobs/x").status == 404
    proxq.submit("GET", "/my/jobs/x/other")
    proxq.submit("GET", "/my/jobs")


def test_a_waiting_job_is_cancelled(start_proxq: StartProxq, valkey, backend: Backend) -> None:  # type: ignore[no-untyped-def]
    path, blocked = backend.path(), backend.path(hang())
    proxq = start_proxq(valkey, {"concurrency": 1, "upstreams": [{"prefix": "/", "url": backend.url}]})
    running = proxq.submit("GET", blocked)
    backend.called(blocked)
    waiting = proxq.submit("GET", path)
    cancelled = proxq.cancel(waiting)
    assert (cancelled.status, cancelled.json, cancelled.is_ours) == (200, {"status": "cancelled"}, True)
    assert proxq.status(waiting).status == 404
    assert proxq.cancel(waiting).status == 404
    # The slot is free at once, and what was cancelled never reaches the upstream.
    proxq.cancel(running)
    assert proxq.replayed("GET", backend.path()).status == 200
    assert backend.calls(path) == []


def test_a_running_job_is_cancelled_and_its_connection_closed(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(hang())
    job_id = proxq.submit("GET", f"/api{path}")
    (call,) = backend.called(path)
    assert proxq.is_in(job_id, "running")
    assert proxq.cancel(job_id).status == 200
    assert proxq.status(job_id).status == 404
    eventually(lambda: backend.endpoint.gone(call), timeout_s=30, what="the upstream's connection to be closed")
    assert proxq.status(job_id).status == 404


def test_an_ended_job_is_cancelled(proxq: Proxq, backend: Backend) -> None:
    for answer, status in ((respond(), "completed"), (drop(), "failed")):
        job_id = proxq.submit("GET", f"/api{backend.path(answer)}")
        proxq.is_in(job_id, status)
        assert proxq.cancel(job_id).status == 200
        assert (proxq.status(job_id).status, proxq.content(job_id).status) == (404, 404)


def test_a_body_that_is_too_large_is_refused_and_not_cut(proxq: Proxq, backend: Backend) -> None:
    path = backend.path()
    answer = proxq.send("POST", f"/api{path}", body=b"x" * 1001)
    assert (answer.status, answer.is_ours, answer.json["code"]) == (413, True, "PAYLOAD_TOO_LARGE")
    assert proxq.replayed("POST", f"/api{path}", body=b"x" * 1000).body == b"x" * 1000
    assert len(backend.calls(path)) == 1


@pytest.mark.parametrize("value", ["soon", "5", "-5", "--5s", "+", "5 s", "9999999h"])
def test_an_invalid_timeout_header_is_a_bad_request(proxq: Proxq, backend: Backend, value: str) -> None:
    answer = proxq.send("GET", f"/api{backend.path()}", [("X-Proxq-Timeout", value)])
    assert (answer.status, answer.json, answer.is_ours) == (
        400,
        {"code": "BAD_REQUEST", "message": "Bad Request"},
        True,
    )


@pytest.mark.parametrize("value", ["", "0", "-5s", "-0.5h", "+0"])
def test_an_empty_zero_or_negative_timeout_means_the_upstreams_timeout(
    proxq: Proxq, backend: Backend, value: str
) -> None:
    path = backend.path(respond(200, "X", body=b"answer").after(0.5))
    assert proxq.replayed("GET", f"/api{path}", [("X-Proxq-Timeout", value)]).body == b"answer"


def test_the_first_of_two_timeout_headers_counts(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(respond(200, "X", body=b"answer").after(0.5))
    asked = [("X-Proxq-Timeout", "+20s"), ("X-Proxq-Timeout", "1ms")]
    assert proxq.replayed("GET", f"/api{path}", asked).body == b"answer"


@pytest.mark.parametrize(
    "head", [b"FROB /api/x HTTP/1.1", b"GET /api/x HTTP/9.9", b"nonsense", b"CONNECT up:1 HTTP/1.1"]
)
def test_a_request_that_cannot_be_parsed_is_a_bad_request(proxq: Proxq, head: bytes) -> None:
    answer = exchange(proxq.port, head + b"\r\nhost: x\r\n\r\n")
    assert (answer.status, answer.is_ours) == (400, True)
    assert answer.value("content-type") == "application/json"
    assert answer.json == {"code": "BAD_REQUEST", "message": "Bad Request"}


@pytest.mark.parametrize(
    ("lines", "status", "message"),
    [
        (b"", 400, "There is no Host"),
        (b"host: a\r\nhost: b\r\n", 400, "There is more than one Host"),
        (b"host: a b\r\n", 400, "Host is no host with or without a port"),
        (b"host: a\r\ntransfer-encoding: gzip, chunked\r\n", 501, "Not Implemented"),
    ],
)
@pytest.mark.parametrize("target", [b"/api/x", b"/__jobs/x", b"/__toril/queues"])
def test_an_invalid_host_or_unknown_transfer_coding_is_refused_on_every_route(
    proxq: Proxq, target: bytes, lines: bytes, status: int, message: str
) -> None:
    answer = exchange(proxq.port, b"POST " + target + b" HTTP/1.1\r\n" + lines + b"\r\n")
    is_torils = target.startswith(b"/__toril")
    assert (answer.status, answer.is_ours) == (status, not is_torils)
    if not is_torils:
        assert answer.json["message"] == message
    elif status == 400:
        assert message in answer.body.decode()


def test_an_unparsable_request_gets_no_answer_in_the_middle_of_another_one(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(respond(200, "X", [], b"whole").after(0.3))
    with socket.create_connection(("127.0.0.1", proxq.port), timeout=30) as connection:
        waiting = f"GET /api{path} HTTP/1.1\r\nhost: x\r\nprefer: wait=30\r\n\r\n".encode()
        connection.sendall(waiting)
        backend.called(path)
        connection.sendall(b"FROB /api/x HTTP/1.1\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert not received.startswith(b"HTTP/1.1 400")


def test_content_can_be_fetched_again_and_again(proxq: Proxq, backend: Backend) -> None:
    job_id = proxq.submit("POST", f"/api{backend.path()}", body=b"same")
    proxq.is_in(job_id, "completed")
    assert [proxq.content(job_id).body for _ in range(3)] == [b"same"] * 3


def test_equal_requests_are_not_merged(proxq: Proxq, backend: Backend) -> None:
    path = backend.path()
    ids = {proxq.submit("POST", f"/api{path}", body=b"same") for _ in range(5)}
    assert len(ids) == 5
    backend.called(path, 5)


def test_head_is_accepted_without_a_body_and_says_where_the_job_is(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(respond(200, "OK", [("x-up", "1")]))
    accepted = proxq.send("HEAD", f"/api{path}")
    assert (accepted.status, accepted.is_ours, accepted.body) == (202, True, b"")
    job_id = (accepted.value("location") or "").rpartition("/")[2]
    proxq.is_in(job_id, "completed")
    assert proxq.content(job_id, "HEAD").value("x-up") == "1"


def test_another_queue_does_not_know_the_job(proxq: Proxq, shared_proxq: StartProxq, backend: Backend) -> None:
    job_id = proxq.submit("GET", f"/api{backend.path()}")
    other = shared_proxq({"jobsPath": "/my/jobs", "upstreams": [{"prefix": "/", "url": backend.url}]})
    assert other.status(job_id).status == 404


@pytest.mark.parametrize("retention_s", [0.4])
def test_ended_jobs_are_forgotten_when_the_retention_is_over(
    start_proxq: StartProxq,
    valkey,
    backend: Backend,
    retention_s: float,  # type: ignore[no-untyped-def]
) -> None:
    document = {"taskRetention": f"{retention_s}s", "upstreams": [{"prefix": "/", "url": backend.url}]}
    proxq = start_proxq(valkey, document)
    for answer in (respond(body=b"x"), drop()):
        job_id = proxq.submit("GET", backend.path(answer))
        began = time.monotonic()
        eventually(
            lambda job_id=job_id: proxq.status(job_id).status == 404, timeout_s=30, what="the job to be forgotten"
        )
        assert time.monotonic() - began >= retention_s * 0.9
        assert proxq.content(job_id).status == 404
    client = valkey.client()
    eventually(lambda: client.keys(f"bull:{proxq.queue}/:????????-*") == [], timeout_s=30, what="no job in Redis")


def test_torils_own_api_is_served_below_its_own_path(proxq: Proxq) -> None:
    for path in ("/__toril/health", "/__toril/ready"):
        assert proxq.send("GET", path).status == 200
    assert proxq.send("GET", "/__toril/queues").status == 401
    assert proxq.send("GET", "/health").status == 502


def test_where_an_upstream_takes_every_path_only_health_is_torils(shared_proxq: StartProxq, backend: Backend) -> None:
    proxq = shared_proxq({"jobsPath": "/my/jobs", "upstreams": [{"prefix": "/", "url": backend.url}]})
    assert proxq.send("GET", "/__toril/health").status == 200
    assert proxq.replayed("GET", "/__toril/queues").status == 200
    assert proxq.replayed("GET", "/health").status == 200
