"""Retries, timeouts and restarts (wire/proxq.md, "Retries, timeouts, cache")."""

import time

import pytest

from tests.support.endpoint import Call, cut, drop, garbage, hang, respond
from tests.support.ports import free_port
from tests.support.proxq import Backend, Proxq, StartProxq

NOBODY = f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def proxq(shared_proxq: StartProxq, backend: Backend) -> Proxq:
    return shared_proxq(
        {
            "upstreams": [
                {"prefix": "/twice", "url": backend.url, "maxRetries": 2, "retryDelay": "50ms", "timeout": "10s"},
                {"prefix": "/slowly", "url": backend.url, "maxRetries": 1},
                {"prefix": "/once", "url": backend.url, "maxRetries": 0, "timeout": "10s"},
                {"prefix": "/quick", "url": backend.url, "timeout": "300ms"},
                {"prefix": "/nobody", "url": NOBODY},
                {"prefix": "/nowhere", "url": "http://does-not-exist.invalid"},
                {"prefix": "/busy", "url": backend.url, "maxRetries": 2, "retryDelay": "20ms", "retryOn": [429, 503]},
            ]
        }
    )


@pytest.mark.parametrize("broken", [drop(), cut(), garbage()], ids=["hang-up", "short body", "no HTTP"])
def test_a_request_without_a_valid_answer_is_retried_unchanged(proxq: Proxq, backend: Backend, broken: object) -> None:
    def behave(call: Call) -> object:
        return broken if len(backend.calls(path)) < 3 else respond(body=b"at last")

    path = backend.path(behave)  # type: ignore[arg-type]
    answer = proxq.replayed("POST", f"/twice{path}", [("X-A", "1")], b"body")
    assert answer.body == b"at last"
    calls = backend.calls(path)
    assert len({(call.method, call.target, call.headers, call.body) for call in calls}) == 1


def test_a_post_that_may_not_be_tried_again_is_sent_once_however_many_connections_are_kept(
    proxq: Proxq, backend: Backend
) -> None:
    slow = backend.path(respond().after(0.3))
    for job_id in [proxq.submit("POST", f"/once{slow}", body=b"x") for _ in range(10)]:  # as many connections at once
        proxq.is_in(job_id, "completed")
    path = backend.path(drop())
    job = proxq.is_in(proxq.submit("POST", f"/once{path}", body=b"x"), "failed")
    assert job["error"] == "the upstream's answer was cut off: ECONNRESET"
    assert len(backend.calls(path)) == 1


def test_a_job_fails_when_its_retries_are_used_up(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(cut())
    job = proxq.is_in(proxq.submit("GET", f"/twice{path}"), "failed")
    assert job["error"]
    assert len(backend.calls(path)) == 3


def test_a_job_that_completes_after_all_has_no_error(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(lambda _: cut() if len(backend.calls(path)) < 2 else respond())
    job_id = proxq.submit("GET", f"/twice{path}")
    assert "error" not in proxq.is_in(job_id, "completed")


def test_any_answer_ends_the_job_without_a_retry(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(respond(503, "Busy", [("retry-after", "1")]))
    assert proxq.replayed("GET", f"/twice{path}").status == 503
    assert len(backend.calls(path)) == 1


def test_without_a_delay_the_first_retry_comes_a_second_later_and_the_job_runs_meanwhile(
    proxq: Proxq, backend: Backend
) -> None:
    path = backend.path(lambda _: cut() if len(backend.calls(path)) < 2 else respond())
    job_id = proxq.submit("GET", f"/slowly{path}")
    backend.called(path)
    assert proxq.is_in(job_id, "running") == {"id": job_id, "status": "running"}
    first, second = backend.called(path, 2)
    assert second.at - first.at >= 0.95
    proxq.is_in(job_id, "completed")


def test_a_job_that_waits_for_a_retry_is_cancelled(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(cut())
    job_id = proxq.submit("GET", f"/slowly{path}")
    backend.called(path)
    assert proxq.cancel(job_id).status == 200
    assert proxq.status(job_id).status == 404
    time.sleep(1.3)  # the retry would have come by now
    assert len(backend.calls(path)) == 1


@pytest.mark.parametrize("prefix", ["/nobody", "/nowhere"])
def test_an_unreachable_upstream_fails_the_job(proxq: Proxq, prefix: str) -> None:
    job = proxq.is_in(proxq.submit("GET", f"{prefix}/x"), "failed")
    assert job["error"]


def test_a_timeout_below_a_second_counts_as_one_second(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(hang())
    job_id = proxq.submit("GET", f"/quick{path}")
    (call,) = backend.called(path)
    assert "0.3" in proxq.is_in(job_id, "failed")["error"]
    assert backend.endpoint.gone(call)


def test_a_request_may_ask_for_another_timeout(proxq: Proxq, backend: Backend) -> None:
    longer = backend.path(respond(body=b"late").after(0.8))
    assert proxq.replayed("GET", f"/quick{longer}", [("X-Proxq-Timeout", "20s")]).body == b"late"
    shorter = backend.path(hang())
    proxq.is_in(proxq.submit("GET", f"/slowly{shorter}", [("X-Proxq-Timeout", "100ms")]), "failed")
    assert len(backend.calls(shorter)) == 2


def test_an_upstream_that_opts_in_is_asked_again_when_it_is_busy(proxq: Proxq, backend: Backend) -> None:
    def behave(call: Call) -> object:
        return (
            respond(429, "Slow Down", [("retry-after", "1")]) if len(backend.calls(path)) < 2 else respond(body=b"ok")
        )

    path = backend.path(behave)  # type: ignore[arg-type]
    assert proxq.replayed("GET", f"/busy{path}").body == b"ok"
    first, second = backend.calls(path)
    assert second.at - first.at >= 0.95
    always = backend.path(respond(503, "Busy", [], b"still busy"))
    answer = proxq.replayed("GET", f"/busy{always}")
    assert (answer.status, answer.body) == (503, b"still busy")
    assert len(backend.calls(always)) == 3
