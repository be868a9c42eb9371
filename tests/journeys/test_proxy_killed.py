"""`kill -9` in the middle of a thousand proxied requests, and Redis away: no accepted request is lost."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.endpoint import Call, respond
from tests.support.proxq import Backend, Proxq, StartProxq
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

REQUESTS = 1000
THREADS = 8


@pytest.mark.promise
@pytest.mark.timeout(300)
def test_no_accepted_request_is_lost_when_instances_are_killed(
    start_proxq: StartProxq, start_valkey: Any, start_endpoint: Any
) -> None:
    store: ValkeyProcess = start_valkey()
    endpoint = start_endpoint()
    backend = Backend(endpoint)
    path = backend.path(lambda call: respond(body=call.body).after(0.005))
    document = {
        "queue": "px-killed",
        "engine": {"lock": "2s", "stalled_interval": "1s", "poll_interval": "1s"},
        "upstreams": [{"prefix": "/", "url": backend.url}],
    }
    one, two = start_proxq(store, document), start_proxq(store, document)
    accepted: dict[int, str] = {}
    lock = threading.Lock()
    reached = {number: threading.Event() for number in (300, 600)}

    def submit(number: int) -> None:
        proxq = (one, two)[number % 2]

        def probe() -> str | None:
            try:
                return proxq.submit("POST", f"{path}?n={number}", [], b"%d" % number)
            except (OSError, AssertionError):
                return None  # it was not accepted, so the client tries again

        job_id = eventually(probe, timeout_s=90, what=f"request {number} to be accepted")
        assert job_id is not None
        with lock:
            accepted[number] = job_id
            for count, event in reached.items():
                if len(accepted) >= count:
                    event.set()

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(submit, number) for number in range(REQUESTS)]
        for proxq, count in ((one, 300), (two, 600)):
            assert reached[count].wait(90)
            proxq.process.kill()
            proxq.process.start("/__toril/ready")
        for future in futures:
            future.result()

    def left() -> dict[int, str]:
        for number, job_id in list(accepted.items()):
            if one.status(job_id).json["status"] in ("completed", "failed"):
                del accepted[number]
        return accepted

    ids = dict(accepted)
    assert len(set(ids.values())) == REQUESTS
    eventually(lambda: not left(), timeout_s=120, what="every accepted request to end")
    with ThreadPoolExecutor(THREADS) as pool:
        contents = pool.map(lambda job_id: two.content(job_id).body, ids.values())
        assert dict(zip(ids, contents, strict=True)) == {number: b"%d" % number for number in ids}
    assert {int(call.body) for call in backend.calls(path)} == set(range(REQUESTS))


def test_requests_are_refused_while_redis_is_away_and_accepted_afterwards(
    start_proxq: StartProxq, start_valkey: Any, backend: Backend
) -> None:
    store: ValkeyProcess = start_valkey(aof=True)
    quick = {"TORIL_REDIS_COMMAND_TIMEOUT": "1s"}
    proxq: Proxq = start_proxq(store, {"upstreams": [{"prefix": "/", "url": backend.url}]}, env=quick)
    job_id = proxq.submit("GET", backend.path())
    proxq.is_in(job_id, "completed")
    store.kill()
    for method, target in (("GET", "/x"), ("GET", f"/__jobs/{job_id}"), ("GET", f"/__jobs/{job_id}/content")):
        answer = proxq.send(method, target)
        assert (answer.status, answer.is_ours) == (500, True)
        assert answer.json == {"code": "INTERNAL_SERVER_ERROR", "message": "Internal Server Error"}
    store.start()
    eventually(lambda: proxq.send("GET", backend.path()).status == 202, timeout_s=30, what="requests to be accepted")
    assert proxq.status(job_id).json["status"] == "completed"


def test_a_request_running_at_a_shutdown_is_done_by_another_instance(
    start_proxq: StartProxq, start_valkey: Any, backend: Backend
) -> None:
    store: ValkeyProcess = start_valkey()
    gate = backend.endpoint.gate()

    async def wait(_: Call) -> Any:
        await gate.passed()
        return respond(body=b"done")

    path = backend.path(wait)
    document = {"queue": "px-drained", "engine": {"grace": "0s"}, "upstreams": [{"prefix": "/", "url": backend.url}]}
    one = start_proxq(store, document)
    job_id = one.submit("GET", path)
    backend.called(path)
    assert one.process.terminate().code == 0
    two = start_proxq(store, document)
    backend.called(path, 2)
    gate.open()
    two.is_in(job_id, "completed")
    assert two.content(job_id).body == b"done"


def test_a_cancel_reaches_the_instance_that_works_on_the_job(
    start_proxq: StartProxq, start_valkey: Any, backend: Backend
) -> None:
    store: ValkeyProcess = start_valkey()
    gate = backend.endpoint.gate()

    async def wait(_: Call) -> Any:
        await gate.passed()
        return respond()

    path = backend.path(wait)
    document = {"queue": "px-cancelled", "concurrency": 1, "upstreams": [{"prefix": "/", "url": backend.url}]}
    one, two = start_proxq(store, document), start_proxq(store, document)
    ids = [one.submit("GET", path), one.submit("GET", path)]
    calls = backend.called(path, 2)  # one in each instance
    for job_id in ids:
        assert two.cancel(job_id).status == 200
    eventually(
        lambda: all(backend.endpoint.gone(call) for call in calls), timeout_s=30, what="both attempts to be broken off"
    )
    # Both slots are free at once.
    for job_id in [two.submit("GET", backend.path()) for _ in range(4)]:
        two.is_in(job_id, "completed")
    gate.open()
