"""What the async proxy does beyond proxq: waits, events, callbacks, idempotency keys, owners, large answers."""

import base64
import hashlib
import hmac
import json
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from tests.support.endpoint import Call, drop, hang, respond
from tests.support.gateway import TOKEN
from tests.support.proxq import Backend, Proxq, StartProxq
from tests.support.waiting import eventually

KEY = b"0123456789abcdef0123456789abcdef"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture
def proxq(shared_proxq: StartProxq, backend: Backend) -> Proxq:
    return shared_proxq(
        {
            "callback": {"secrets": [SECRET], "timeout": "20s", "attempts": 3},
            "tokens": [
                {"name": "all", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(), "allow": ["*"], "queues": ["*"]}
            ],
            "upstreams": [
                {"prefix": "/api", "url": backend.url},
                {"prefix": "/other", "url": backend.url, "maxBodySize": 100, "pathFilter": {"patterns": ["past"]}},
            ],
        }
    )


def test_prefer_wait_returns_the_upstreams_answer(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(respond(201, "Made", [("x-up", "1")], b"at once").after(0.2))
    answer = proxq.send("POST", f"/api{path}", [("Prefer", "wait=30")], b"x")
    assert (answer.status, answer.body, answer.value("x-up"), answer.is_ours) == (201, b"at once", "1", False)
    assert backend.calls(path)[0].header("prefer") == "wait=30"


def test_prefer_wait_returns_the_job_after_its_time(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(hang())
    accepted = proxq.send("GET", f"/api{path}", [("Prefer", "respond-async, wait=1")])
    proxq.cancel(accepted.job_id)


def test_prefer_wait_returns_the_job_when_it_fails(proxq: Proxq, backend: Backend) -> None:
    accepted = proxq.send("GET", f"/api{backend.path(drop())}", [("Prefer", "wait=30")])
    assert proxq.status(accepted.job_id).json["status"] == "failed"


def test_a_status_can_be_waited_for(proxq: Proxq, backend: Backend) -> None:
    gate = backend.endpoint.gate()

    async def behave(_: Call) -> Any:
        await gate.passed()
        return respond()

    path = backend.path(behave)
    job_id = proxq.submit("GET", f"/api{path}")
    backend.called(path)
    assert proxq.send("GET", f"/__jobs/{job_id}?wait=1").json["status"] == "running"
    gate.open()
    assert proxq.send("GET", f"/__jobs/{job_id}?wait=30").json["status"] == "completed"
    assert proxq.send("GET", f"/__jobs/{job_id}?wait=30").json["status"] == "completed"


def test_states_come_as_events(proxq: Proxq, backend: Backend) -> None:
    gate = backend.endpoint.gate()

    async def behave(_: Call) -> Any:
        await gate.passed()
        return respond()

    path = backend.path(behave)
    job_id = proxq.submit("GET", f"/api{path}")
    backend.called(path)
    with socket.create_connection(("127.0.0.1", proxq.port), timeout=30) as connection:
        head = f"GET /__jobs/{job_id} HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\n\r\n"
        connection.sendall(head.encode())
        received = b""
        while b'"running"}\n\n' not in received:
            received += connection.recv(4096)
        shown = proxq.send("GET", "/__toril/metrics", [("Authorization", f"Bearer {TOKEN}")]).body
        assert b'toril_open_streams{route="/__jobs/{id}"} 1.0' in shown
        gate.open()
        while b"event: completed" not in received or b"0\r\n\r\n" not in received:
            part = connection.recv(4096)
            assert part, received
            received += part
    assert b"x-proxq-source: proxq" in received
    assert b"content-type: text/event-stream" in received


def test_an_idempotency_key_stands_for_one_job(proxq: Proxq, backend: Backend) -> None:
    path = backend.path()
    key = [("Idempotency-Key", path), ("Authorization", "Bearer one")]
    first = proxq.submit("POST", f"/api{path}", key, b"body")
    assert proxq.submit("POST", f"/api{path}", key, b"body") == first
    other = proxq.send("POST", f"/api{path}", key, b"another body")
    assert (other.status, other.is_ours) == (422, True)
    assert b"Another request was accepted under this idempotency key" in other.body
    # Another caller's key, and another upstream's, is another one.
    assert proxq.submit("POST", f"/api{path}", [key[0], ("Authorization", "Bearer two")], b"body") != first
    assert proxq.submit("POST", f"/other{path}", key, b"body") != first
    proxq.is_in(first, "completed")
    assert proxq.submit("POST", f"/api{path}", key, b"body") == first
    backend.called(path, 3)
    assert backend.calls(path)[0].header("idempotency-key") == path


@pytest.mark.parametrize(
    "header", [[("Idempotency-Key", "")], [("Idempotency-Key", "x" * 256)], [("Idempotency-Key", "a")] * 2]
)
def test_an_empty_or_a_second_idempotency_key_is_refused(
    proxq: Proxq, backend: Backend, header: list[tuple[str, str]]
) -> None:
    path = backend.path()
    answer = proxq.send("POST", f"/api{path}", header, b"body")
    assert (answer.status, answer.is_ours) == (400, True)
    assert b"Idempotency-Key" in answer.body
    assert backend.calls(path) == []


def remove(store: redis.Redis, job_id: str) -> None:
    """Remove a completed job as other BullMQ programs do."""
    (job,) = store.scan_iter(f"*:{job_id}", count=10_000)
    store.zrem(job.removesuffix(job_id) + "completed", job_id)
    store.delete(job)


@pytest.mark.parametrize("end", ["failed", "cancelled", "cancelled-while-running", "removed", "forgotten"])
def test_a_key_is_free_again_when_its_job_leaves_no_answer(
    proxq: Proxq, backend: Backend, store: redis.Redis, end: str
) -> None:
    behaviour = {"failed": drop(), "cancelled-while-running": hang()}.get(end, respond())
    path = backend.path(lambda _: behaviour if len(backend.calls(path)) < 2 else respond())
    key = [("Idempotency-Key", path)]
    first = proxq.submit("POST", f"/api{path}", key, b"body")
    backend.called(path)
    if end == "failed":
        proxq.is_in(first, "failed")
    elif end == "cancelled-while-running":
        proxq.cancel(first)
    else:
        proxq.is_in(first, "completed")
        assert proxq.submit("POST", f"/api{path}", key, b"body") == first
        if end == "cancelled":
            proxq.cancel(first)
        elif end == "removed":
            remove(store, first)
        else:
            (job,) = store.scan_iter(f"*:{first}", count=10_000)
            store.hset(job, "finishedOn", 1)
    # Free means free: another request may have it, too.
    second = proxq.submit("POST", f"/api{path}", key, b"another body")
    assert second != first
    proxq.is_in(second, "completed")
    assert proxq.submit("POST", f"/api{path}", key, b"another body") == second
    assert proxq.send("POST", f"/api{path}", key, b"body").status == 422
    assert [call.body for call in backend.called(path, 2)] == [b"body", b"another body"]


def test_concurrent_requests_with_a_freed_idempotency_key_make_one_job(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(lambda _: drop() if len(backend.calls(path)) < 2 else respond())
    key = [("Idempotency-Key", path)]
    first = proxq.submit("POST", f"/api{path}", key, b"body")
    proxq.is_in(first, "failed")
    with ThreadPoolExecutor(8) as clients:
        ids = set(clients.map(lambda _: proxq.submit("POST", f"/api{path}", key, b"body"), range(16)))
    (second,) = ids
    assert second != first
    proxq.is_in(second, "completed")
    assert len(backend.calls(path)) == 2


@pytest.mark.parametrize("same", [True, False], ids=["the-same-request", "another-one"])
def test_a_key_whose_claimant_crashed_is_free_again(
    proxq: Proxq, backend: Backend, store: redis.Redis, same: bool
) -> None:
    path, other = backend.path(), backend.path()
    key = [("Idempotency-Key", path)]
    first = proxq.submit("POST", f"/api{path}", key, b"body")
    proxq.is_in(first, "completed")
    remove(store, first)
    port = store.connection_pool.connection_kwargs["port"]
    with redis.Redis(port=port) as client:  # which reads bytes: what stands for other tests' keys need be no text
        names = list(client.scan_iter("*:idempotency:*", count=10_000))
        (entry,) = [name.decode() for name in names if client.get(name).startswith(first.encode())]
    store.set(entry, store.get(entry).replace("settled", "pending"), keepttl=True)
    if not same:
        assert proxq.send("POST", f"/api{other}", key, b"body").status == 422, "its claimant may be about to add it"
        store.pexpire(entry, store.pttl(entry) - 61_000)
    made = proxq.submit("POST", f"/api{path if same else other}", key, b"body")
    proxq.is_in(made, "completed")
    assert (made == first) is same
    assert len(backend.calls(path)) == (2 if same else 1)


@pytest.mark.parametrize(("end", "status"), [(respond(), "completed"), (drop(), "failed"), (hang(), "cancelled")])
def test_a_signed_callback_reports_the_end_of_a_job(proxq: Proxq, backend: Backend, end: Any, status: str) -> None:
    told, path = backend.path(respond(204, "No Content")), backend.path(end)
    headers = [("X-Toril-Callback", f"http://127.0.0.1:{backend.endpoint.port}{told}")]
    job_id = proxq.submit("GET", f"/api{path}", headers)
    if status == "cancelled":
        backend.called(path)
        proxq.cancel(job_id)
    (call,) = backend.called(told)
    body = json.loads(call.body)
    assert (call.method, body["type"]) == ("POST", f"job.{status}")
    assert (body["data"]["id"], body["data"]["status"]) == (job_id, status)
    assert call.header("webhook-id") == job_id
    signed = f"{job_id}.{call.header('webhook-timestamp')}.".encode() + call.body
    signature = base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    assert call.header("webhook-signature") == f"v1,{signature}"
    assert backend.called(path)[0].header("x-toril-callback") is None


def test_a_callback_is_tried_again(proxq: Proxq, backend: Backend) -> None:
    told = backend.path(lambda _: respond(500 if len(backend.calls(told)) < 2 else 200, "X"))
    headers = [("X-Toril-Callback", f"http://127.0.0.1:{backend.endpoint.port}{told}")]
    proxq.submit("GET", f"/api{backend.path()}", headers)
    assert len({call.body for call in backend.called(told, 2)}) == 1


@pytest.mark.parametrize("end", [respond(), drop()], ids=["completed", "failed"])
def test_a_callback_after_the_jobs_retention_does_not_call_it_cancelled(
    proxq: Proxq, backend: Backend, end: Any
) -> None:
    gate = backend.endpoint.gate()

    async def refuse_first(_: Call) -> Any:
        if len(backend.calls(told)) == 1:
            await gate.passed()
            return respond(500, "X")
        return respond()

    told = backend.path(refuse_first)
    headers = [("X-Toril-Callback", f"http://127.0.0.1:{backend.endpoint.port}{told}")]
    job_id = proxq.submit("GET", f"/api{backend.path(end)}", headers)
    backend.called(told)
    assert proxq.cancel(job_id).status == 200
    gate.open()
    late = json.loads(backend.called(told, 2)[1].body)
    assert (late["type"], late["data"]) == ("job.expired", {"id": job_id, "status": "expired"})


@pytest.mark.parametrize(
    "url", ["nowhere", "ftp://example.com/", "http://user:pw@example.com/", "http://169.254.169.254/"]
)
def test_a_callback_that_may_not_be_called_is_refused(proxq: Proxq, backend: Backend, url: str) -> None:
    path = backend.path()
    answer = proxq.send("GET", f"/api{path}", [("X-Toril-Callback", url)])
    assert (answer.status, answer.is_ours, answer.json["code"]) == (400, True, "BAD_REQUEST")
    assert "X-Toril-Callback" in answer.json["message"]
    assert backend.calls(path) == []


def test_without_callback_secrets_the_callback_header_is_forwarded(shared_proxq: StartProxq, backend: Backend) -> None:
    proxq = shared_proxq({"jobsPath": "/my/jobs", "upstreams": [{"prefix": "/", "url": backend.url}]})
    path = backend.path(respond())
    proxq.replayed("GET", path, [("X-Toril-Callback", "whatever")])
    assert backend.calls(path)[0].header("x-toril-callback") == "whatever"


def test_only_the_owner_sees_a_job(shared_proxq: StartProxq, backend: Backend) -> None:
    proxq = shared_proxq({"ownerOnly": True, "upstreams": [{"prefix": "/", "url": backend.url}]})
    mine, other = [("Authorization", "Bearer mine")], [("Authorization", "Bearer other")]
    job_id = proxq.submit("GET", backend.path(), mine)

    def status(headers: list[tuple[str, str]]) -> int:
        return proxq.send("GET", f"/__jobs/{job_id}", headers).status

    eventually(
        lambda: proxq.send("GET", f"/__jobs/{job_id}", mine).json["status"] == "completed", timeout_s=30, what="the end"
    )
    for headers in (other, [], [("Authorization", "Bearer min")]):
        assert status(headers) == 404
        assert proxq.content(job_id, headers=headers).status == 404
        assert proxq.send("DELETE", f"/__jobs/{job_id}", headers).status == 404
    assert (status(mine), proxq.content(job_id, headers=mine).status) == (200, 200)
    assert proxq.send("DELETE", f"/__jobs/{job_id}", mine).status == 200
    nobodys = proxq.submit("GET", backend.path())
    assert proxq.status(nobodys).status == 200
    assert proxq.send("GET", f"/__jobs/{nobodys}", mine).status == 404


def measured(proxq: Proxq) -> Counter[tuple[str, str, str]]:
    """How many requests were answered so far, by method, route and status."""
    answer = proxq.send("GET", "/__toril/metrics", [("Authorization", f"Bearer {TOKEN}")])
    return Counter(
        {
            (sample.labels["method"], sample.labels["route"], sample.labels["status"]): int(sample.value)
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
            if sample.name == "toril_request_duration_seconds_count"
        }
    )


def test_the_proxys_answers_are_counted_in_the_metrics(proxq: Proxq, backend: Backend) -> None:
    failed, gone = backend.path(respond(503, "Away", [("x-proxq-source", "proxq")])), backend.path(drop())
    key = [("Idempotency-Key", failed)]
    before = measured(proxq)
    job_id = proxq.submit("POST", f"/other{failed}", key, b"x")
    for method, target, headers, body in (
        ("GET", f"/__jobs/{job_id}?wait=30", [], None),
        ("GET", f"/__jobs/{job_id}", [("Accept", "text/event-stream"), ("Connection", "close")], None),
        ("GET", f"/__jobs/{job_id}/content", [], None),
        ("HEAD", f"/__jobs/{job_id}/content", [], None),
        ("POST", f"/other{failed}", key, b"y"),
        ("DELETE", f"/__jobs/{job_id}", [], None),
        ("GET", f"/__jobs/{job_id}/content", [], None),
        ("PUT", "/other/x", [], b"x" * 101),
        ("PURGE", "/other/x", [], None),
        ("GET", "/other/x", [("Prefer", "wait=30")], None),
        ("GET", "/other/past", [], None),
        ("GET", f"/other{failed}?past", [], None),
        ("GET", f"/other/past{failed}", [], None),
        ("GET", f"/other/past{gone}", [], None),
        ("GET", "/nowhere", [], None),
    ):
        proxq.send(method, target, headers, body)
    assert measured(proxq) - before == {
        ("POST", "/other/{path}", "2xx"): 1,
        ("POST", "/other/{path}", "4xx"): 1,
        ("PUT", "/other/{path}", "4xx"): 1,
        ("other", "/other/{path}", "2xx"): 1,
        ("GET", "/other/{path}", "2xx"): 1,
        ("GET", "/other/{path}", "upstream_2xx"): 2,
        ("GET", "/other/{path}", "upstream_5xx"): 1,
        ("GET", "/other/{path}", "5xx"): 1,
        ("GET", "none", "5xx"): 1,
        ("GET", "/__jobs/{id}", "2xx"): 2,
        ("GET", "/__jobs/{id}/content", "upstream_5xx"): 1,
        ("HEAD", "/__jobs/{id}/content", "upstream_5xx"): 1,
        ("GET", "/__jobs/{id}/content", "4xx"): 1,
        ("DELETE", "/__jobs/{id}", "2xx"): 1,
        ("GET", "/metrics", "2xx"): 1,
    }
