"""The attempts of a job, through a real server: kept with the job by workers of all kinds, and gone with it."""

import json
from collections.abc import Callable
from typing import Any

import redis

from tests.journeys.test_pull_workers import end, lease
from tests.support.endpoint import Answer, Call, Endpoint, StartEndpoint, hang, reply_json, respond
from tests.support.gateway import Gateway
from tests.support.ports import free_port
from tests.support.sockets import socket_to
from tests.support.toril import StartToril, TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually


def attempts(gateway: Gateway, queue: str, job_id: str) -> list[dict[str, Any]]:
    answer = gateway.http.get(f"/queues/{queue}/jobs/{job_id}/attempts")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["attempts"]
    return found


def told(gateway: Gateway, queue: str, job_id: str) -> list[tuple[Any, ...]]:
    return [
        tuple(one[name] for name in ("number", "outcome", "status", "verdict", "worker"))
        for one in attempts(gateway, queue, job_id)
    ]


def at_the_third(call: Call) -> Answer:
    """Fails twice."""
    return respond(500 + call.job["attemptsMade"], "Busy") if call.job["attemptsMade"] < 2 else reply_json({})


def test_a_job_that_is_retried_has_every_attempt(gateway: Gateway, start_endpoint: StartEndpoint, queue: str) -> None:
    gateway.register(queue, start_endpoint(at_the_third).url)
    job_id = gateway.add_one(queue, attempts=3, backoff={"type": "fixed", "delay": 200})
    gateway.finished(queue, job_id)
    assert told(gateway, queue, job_id) == [
        (3, "completed", None, "complete", None),
        (2, "failed", 501, "retry", "push"),
        (1, "failed", 500, "retry", "push"),
    ]
    third, second, first = attempts(gateway, queue, job_id)
    assert [one["reason"] for one in (third, second, first)] == [None, "Busy", "Busy"]
    assert [one["nextInMs"] for one in (third, second, first)] == [None, 200, 200]
    assert third["waitedMs"] >= 190
    assert second["waitedMs"] >= 190
    assert first["at"] < second["at"] < third["at"]
    # What other BullMQ programs know of a job is as it was.
    assert "toril:attempts" not in gateway.job(queue, job_id)


def test_a_job_that_nobody_answers_fails_with_its_attempt(gateway: Gateway, queue: str) -> None:
    gateway.register(queue, f"http://127.0.0.1:{free_port()}/")
    job_id = gateway.add_one(queue)
    gateway.finished(queue, job_id)
    assert told(gateway, queue, job_id) == [(1, "connect_error", None, "fail", "push")]


def test_an_attempt_of_a_leased_job_is_recorded_as_its_worker_reported_it(gateway: Gateway, queue: str) -> None:
    job_id = gateway.add_one(queue, attempts=2)
    for reason in ("first", "x" * 1000):
        (held,) = lease(gateway, queue)
        assert end(gateway, queue, held, "fail", {"reason": reason}) == 204
    assert told(gateway, queue, job_id) == [(2, "failed", None, "fail", "lease"), (1, "failed", None, "retry", "lease")]
    assert [one["reason"] for one in attempts(gateway, queue, job_id)] == ["x" * 200, "first"]


def test_a_job_that_stalls_has_the_attempt_whose_worker_was_gone(gateway: Gateway, queue: str) -> None:
    job_id = gateway.add_one(queue)
    for _ in range(2):
        assert lease(gateway, queue, wait_ms=20_000, lock_ms=1000) != []
    done = eventually(
        lambda: lease(gateway, queue, wait_ms=2000) == [] and gateway.job(queue, job_id).get("finishedOn")
    )
    assert done, "BullMQ fails it at the second stall"
    assert told(gateway, queue, job_id) == [(1, "stalled", None, "fail", None), (1, "stalled", None, "retry", None)]
    for one in attempts(gateway, queue, job_id):
        assert one["reason"] == "The worker was gone: the job stalled"
        assert one["durationMs"] >= 1000


def test_a_job_that_is_given_back_has_the_attempt_that_was_broken_off(gateway: Gateway, queue: str) -> None:
    job_id = gateway.add_one(queue, attempts=2)
    (held,) = lease(gateway, queue)
    assert end(gateway, queue, held, "release") == 204
    (held,) = lease(gateway, queue)
    assert end(gateway, queue, held, "fail", {"reason": "no"}) == 204
    (held,) = lease(gateway, queue, wait_ms=5000)
    assert end(gateway, queue, held, "complete") == 204
    assert told(gateway, queue, job_id) == [
        (2, "completed", None, "complete", None),
        (1, "failed", None, "retry", "lease"),
        (1, "released", None, "release", "lease"),
    ]


def test_jobs_of_a_dropped_socket_stall_and_jobs_of_a_closed_one_are_released(
    toril: TorilProcess, gateway: Gateway, queue: str
) -> None:
    job_id = gateway.add_one(queue)
    path = f"/ws/queues/{queue}/process/1"
    with socket_to(toril.url, path) as worker:
        worker.jobs(1)
    with socket_to(toril.url, path) as worker:
        worker.jobs(1)
        worker.drop()
    with socket_to(toril.url, path) as worker:
        worker.finish(worker.jobs(1)[0])
        gateway.finished(queue, job_id)
    assert told(gateway, queue, job_id) == [
        (1, "completed", None, "complete", None),
        (1, "stalled", None, "retry", "socket"),
        (1, "released", None, "release", "socket"),
    ]


def test_a_job_that_another_instance_takes_over_has_the_attempt_that_was_broken_off(
    start_valkey: Callable[..., ValkeyProcess], start_toril: StartToril, start_endpoint: StartEndpoint
) -> None:
    valkey = start_valkey()
    ending = start_toril(valkey, env={"TORIL_GRACE": "100ms"})
    endpoint = start_endpoint(lambda _: hang())
    ending.gateway.register("orders", endpoint.url)
    job_id = ending.gateway.add_one("orders")
    endpoint.wait_for_calls(1)
    endpoint.behaviour = lambda _: reply_json({})
    assert ending.terminate().code == 0
    gateway = start_toril(valkey).gateway
    gateway.finished("orders", job_id)
    assert told(gateway, "orders", job_id) == [
        (1, "completed", None, "complete", None),
        (1, "released", None, "release", "push"),
    ]


def test_no_more_than_fifty_stalls_are_kept(gateway: Gateway, queue: str, store: redis.Redis) -> None:
    job_id = gateway.add_one(queue)
    lines = [
        json.dumps({"number": n, "at": n, "durationMs": 1, "outcome": "failed", "verdict": "retry"}) for n in range(50)
    ]
    store.hset(f"bull:{queue}:{job_id}", "toril:attempts", "\n".join(lines))
    lease(gateway, queue, lock_ms=1000)
    assert lease(gateway, queue, wait_ms=20_000) != []
    found = attempts(gateway, queue, job_id)
    assert [one["number"] for one in found] == [1, *range(49, 0, -1)]
    assert found[0]["outcome"] == "stalled"


def test_attempts_go_with_the_job(gateway: Gateway, endpoint: Endpoint, queue: str, store: redis.Redis) -> None:
    endpoint.behaviour = lambda call: respond(500, "Busy")
    gateway.register(queue, endpoint.url)
    job_id = gateway.add_one(queue)
    gateway.finished(queue, job_id)
    assert store.hexists(f"bull:{queue}:{job_id}", "toril:attempts")
    assert gateway.http.delete(f"/queues/{queue}/jobs/{job_id}").status_code < 300
    assert list(store.scan_iter(f"bull:{queue}:{job_id}*")) == []
    answer = gateway.http.get(f"/queues/{queue}/jobs/{job_id}/attempts")
    assert (answer.status_code, answer.json()["code"]) == (404, "job_not_found")


def test_a_job_that_waits_has_no_attempts(gateway: Gateway, queue: str) -> None:
    assert attempts(gateway, queue, gateway.add_one(queue)) == []
