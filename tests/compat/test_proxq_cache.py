"""The cache (wire/proxq.md, "cache"): which requests are equal, which answers are given again, and who says so."""

import time
from typing import Any

import pytest

from tests.support.endpoint import respond
from tests.support.proxq import Backend, Proxq, StartProxq, answering, exchange
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually


@pytest.fixture(params=["memory", "redis"])
def proxq(request: pytest.FixtureRequest, shared_proxq: StartProxq, backend: Backend) -> Proxq:
    return shared_proxq(
        {
            "cache": {"mode": request.param, "ttl": "1h", "redisKeyPrefix": "px-test:"},
            "upstreams": [
                {"prefix": "/api", "url": backend.url},
                {"prefix": "/own", "url": backend.url, "cacheKeyExcludeHeaders": ["X-Trace-ID"]},
            ],
        }
    )


def cache_status(proxq: Proxq, *request: Any) -> list[str]:
    return proxq.replayed(*request).values("x-cache-status")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PURGE"])
def test_an_equal_request_is_a_new_job_with_the_same_answer(proxq: Proxq, backend: Backend, method: str) -> None:
    path = backend.path(answering(201, [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")], b"\x00answer"))
    first = proxq.replayed(method, f"/api{path}?q=1", [("X-A", "1")], b"body")
    second = proxq.replayed(method, f"/api{path}?q=1", [("X-A", "1")], b"body")
    assert (first.value("x-cache-status"), second.value("x-cache-status")) == ("MISS", "HIT")
    assert (first.status, first.body) == (second.status, second.body) == (201, b"\x00answer")
    assert [pair for pair in first.headers if pair[0] != "x-cache-status"] == [
        pair for pair in second.headers if pair[0] != "x-cache-status"
    ]
    assert len(backend.calls(path)) == 1


def test_requests_that_differ_do_not_share_a_cached_answer(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(respond())
    first = ("POST", f"/api{path}", [("X-A", "1"), ("X-A", "2")], b"body")
    assert cache_status(proxq, *first) == ["MISS"]
    for other in (
        ("PUT", *first[1:]),
        ("POST", f"/api{path}?x", *first[2:]),
        ("POST", f"/api{path}/", *first[2:]),
        (*first[:2], [("X-A", "2"), ("X-A", "1")], b"body"),
        (*first[:2], [("X-A", "1")], b"body"),
        (*first[:3], b"other"),
    ):
        assert cache_status(proxq, *other) == ["MISS"]
    assert len(backend.calls(path)) == 7


def test_the_order_of_different_names_does_not_matter_nor_their_case(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(respond())
    assert cache_status(proxq, "GET", f"/api{path}", [("X-A", "1"), ("X-B", "2")]) == ["MISS"]
    assert cache_status(proxq, "GET", f"/api{path}", [("x-b", "2"), ("x-a", "1")]) == ["HIT"]


@pytest.mark.parametrize("name", ["X-Request-ID", "X-Forwarded-For", "X-Real-IP", "X-Forwarded-Proto", "x-request-id"])
def test_excluded_headers_are_no_part_of_the_cache_key(proxq: Proxq, backend: Backend, name: str) -> None:
    path = backend.path(respond())
    assert cache_status(proxq, "GET", f"/api{path}", [(name, "1")]) == ["MISS"]
    assert cache_status(proxq, "GET", f"/api{path}", [(name, "2")]) == ["HIT"]


def test_a_list_of_headers_replaces_the_usual_one(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(respond())
    assert cache_status(proxq, "GET", f"/own{path}", [("X-Trace-ID", "1")]) == ["MISS"]
    assert cache_status(proxq, "GET", f"/own{path}", [("x-trace-id", "2")]) == ["HIT"]
    assert cache_status(proxq, "GET", f"/own{path}", [("X-Request-ID", "1")]) == ["MISS"]


def test_headers_that_toril_adds_about_the_client_are_no_part_of_the_cache_key(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(respond())
    assert cache_status(proxq, "GET", f"/own{path}") == ["MISS"]
    other = exchange(proxq.port, f"GET /own{path} HTTP/1.1\r\nhost: other.example\r\n\r\n".encode())
    proxq.is_in(other.job_id, "completed")
    assert proxq.content(other.job_id).values("x-cache-status") == ["HIT"]
    # What the client itself says of where it comes from is its own header, and counts where the list has it not.
    assert cache_status(proxq, "GET", f"/own{path}", [("X-Forwarded-For", "1.2.3.4")]) == ["MISS"]
    assert cache_status(proxq, "GET", f"/own{path}", [("X-Forwarded-For", "1.2.3.4")]) == ["HIT"]
    assert cache_status(proxq, "GET", f"/own{path}", [("X-Forwarded-Host", "a")]) == ["MISS"]


@pytest.mark.parametrize("status", [301, 404, 500])
def test_answers_other_than_2xx_are_not_cached_and_say_miss(proxq: Proxq, backend: Backend, status: int) -> None:
    path = backend.path(respond(status, "X"))
    assert cache_status(proxq, "GET", f"/api{path}") == ["MISS"]
    assert cache_status(proxq, "GET", f"/api{path}") == ["MISS"]
    assert len(backend.calls(path)) == 2


def test_equal_requests_at_the_same_time_reach_the_upstream_once(proxq: Proxq, backend: Backend) -> None:
    gate = backend.endpoint.gate()

    async def wait(_: Any) -> Any:
        await gate.passed()
        return respond(body=b"once")

    path = backend.path(wait)
    ids = [proxq.submit("GET", f"/api{path}") for _ in range(5)]
    for job_id in ids:
        proxq.is_in(job_id, "running")
    gate.open()
    for job_id in ids:
        proxq.is_in(job_id, "completed")
    answers = [proxq.content(job_id) for job_id in ids]
    assert {answer.body for answer in answers} == {b"once"}
    assert sorted(answer.value("x-cache-status") or "" for answer in answers) == ["HIT"] * 4 + ["MISS"]
    assert len(backend.calls(path)) == 1


def test_a_request_that_shared_a_cancelled_call_makes_its_own(proxq: Proxq, backend: Backend) -> None:
    gate = backend.endpoint.gate()

    async def wait(_: Any) -> Any:
        await gate.passed()
        return respond(body=b"after all")

    path = backend.path(wait)
    first = proxq.submit("GET", f"/api{path}")
    backend.called(path)
    second = proxq.submit("GET", f"/api{path}")
    proxq.is_in(second, "running")
    proxq.cancel(first)
    backend.called(path, 2)
    gate.open()
    proxq.is_in(second, "completed")
    assert proxq.content(second).body == b"after all"


def test_an_answer_in_redis_is_shared_by_all_instances_and_lives_as_long_as_it_may(
    start_proxq: StartProxq, valkey: ValkeyProcess, backend: Backend
) -> None:
    document = {
        "queue": "px-shared-cache",
        "cache": {"mode": "redis", "ttl": "30m", "redisKeyPrefix": "px-two:"},
        "upstreams": [{"prefix": "/", "url": backend.url}],
    }
    gate = backend.endpoint.gate()

    async def wait(_: Any) -> Any:
        await gate.passed()
        return respond(body=b"shared")

    path = backend.path(wait)
    one = start_proxq(valkey, document | {"queue": "px-cache-one"})
    two = start_proxq(valkey, document | {"queue": "px-cache-two"})
    jobs = [(one, one.submit("GET", path)), (two, two.submit("GET", path))]
    for proxq, job_id in jobs:
        proxq.is_in(job_id, "running")
    gate.open()
    for proxq, job_id in jobs:
        proxq.is_in(job_id, "completed")
        assert proxq.content(job_id).body == b"shared"
    assert len(backend.calls(path)) == 1
    client = valkey.client(db=0)
    keys = [key for key in client.keys("px-two:*") if not key.endswith(":claim")]
    (key,) = keys
    assert len(key.removeprefix("px-two:cache:")) == 64
    assert 1000 < client.ttl(key) <= 1800


def test_an_answer_is_forgotten_when_its_time_is_over(
    start_proxq: StartProxq, valkey: ValkeyProcess, backend: Backend
) -> None:
    proxq = start_proxq(
        valkey, {"cache": {"mode": "memory", "ttl": "300ms"}, "upstreams": [{"prefix": "/", "url": backend.url}]}
    )
    path = backend.path(respond())
    proxq.replayed("GET", path)
    began = time.monotonic()
    eventually(lambda: cache_status(proxq, "GET", path) == ["MISS"], timeout_s=30, what="the answer to be forgotten")
    assert time.monotonic() - began < 20


def test_without_a_cache_no_answer_mentions_one(shared_proxq: StartProxq, backend: Backend) -> None:
    proxq = shared_proxq({"jobsPath": "/my/jobs", "upstreams": [{"prefix": "/", "url": backend.url}]})
    path = backend.path(respond())
    assert [cache_status(proxq, "GET", path) for _ in range(2)] == [[], []]
    assert len(backend.calls(path)) == 2
