"""Requests and answers that another program has written to Redis: what toril would refuse is not sent, and spoils
nothing else.
"""

import hashlib
import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from redis import Redis

from tests.support.deliveries import LATER, Door, configuration
from tests.support.endpoint import respond
from tests.support.gateway import TOKEN
from tests.support.proxq import Backend, Proxq, StartProxq
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
INJECTED = "x\r\nx-injected: 1"


@pytest.fixture
def proxq(shared_proxq: StartProxq, backend: Backend) -> Proxq:
    return shared_proxq(
        {
            "callback": {"secrets": [SECRET], "timeout": "20s", "attempts": 3},
            "tokens": [
                {"name": "all", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest(), "allow": ["*"], "queues": ["*"]}
            ],
            "upstreams": [
                {"prefix": "/api", "url": backend.url + "/own", "maxRetries": 3, "retryDelay": "1s"},
                {"prefix": "/away", "url": backend.url + "/own", "directProxyMode": "redirect",
                 "pathFilter": {"patterns": ["now"]}},
                {"prefix": "/past", "url": backend.url + "/own", "pathFilter": {"patterns": ["now"]}},
            ],
        }
    )  # fmt: skip


def api(proxq: Proxq, queue: str) -> str:
    return f"http://127.0.0.1:{proxq.port}/__toril/queues/{queue.replace('/', '%2F')}/jobs"


def written(proxq: Proxq, data: Any, queue: str = "/api") -> dict[str, Any]:
    """What happens to a job that another program has added to an upstream's queue."""
    where = api(proxq, proxq.queue + queue)
    with httpx.Client(headers={"authorization": f"Bearer {TOKEN}"}, trust_env=False) as http:
        (job,) = http.post(where, json=[{"name": "job", "data": data, "opts": {"attempts": 4}}]).json()

        def found() -> dict[str, Any]:
            answer: dict[str, Any] = http.get(f"{where}/{job['id']}", params={"state": ""}).json()
            return answer

        eventually(lambda: found()["state"] in ("completed", "failed"), what="the end of the job")
        return found()


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "GET / HTTP/1.1\r\nx-injected: 1\r\n\r\nGET"},
        {"target": "PATH HTTP/1.1\r\nx-injected: 1\r\nx: "},
        {"target": "PATH x"},
        {"target": "/../admin/PATH"},
        {"target": "/..;/admin/PATH"},
        {"target": "/%2e%2E/admin/PATH"},
        {"target": "/a/..%2f..%5cPATH"},
        {"headers": [["x-a", INJECTED]]},
        {"headers": [[f"x-a: 1\r\n{INJECTED}", "1"]]},
        {"headers": [["x-a", "\x00"]]},
        {"headers": [["content-length", "3"]], "body": "abcGET /smuggled HTTP/1.1\r\n\r\n"},
        {"timeout": -1},
        {"method": "M" * 200_000},
        {"target": f"PATH?{'x' * 200_000}"},
        {"headers": [["x-a", "v" * 50_000]] * 4},
        "no request",
        None,
    ],
)
def test_a_job_that_could_not_have_come_in_fails_once_and_reaches_no_upstream(
    proxq: Proxq, backend: Backend, changed: Any
) -> None:
    path = backend.path(respond(200))
    sound = {"method": "POST", "target": path, "headers": [["x-a", "1"]], "body": "hi"}
    data = sound | changed if isinstance(changed, dict) else changed
    job = written(proxq, json.loads(json.dumps(data).replace("PATH", path.removeprefix("/"))))
    assert (job["state"], job["attemptsMade"]) == ("failed", 1)
    assert job["failedReason"].startswith("the job holds no recorded request that can be sent: ")
    assert backend.calls(path) == []
    assert written(proxq, sound)["state"] == "completed"
    (call,) = backend.called(path)
    assert (call.target, call.header("content-length"), call.header("x-injected")) == (f"/own{path}", "2", None)


def test_hop_by_hop_headers_are_left_out_of_a_stored_request(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(respond(200))
    headers = [["transfer-encoding", "chunked"], ["host", "other"], ["connection", "x-hop"], ["x-hop", "1"], ["a", "1"]]
    job = written(proxq, {"method": "POST", "target": path, "headers": headers, "body": "0\r\n\r\nGET /smuggled"})
    assert job["state"] == "completed"
    (call,) = backend.called(path)
    assert (call.body, call.header("a"), call.header("x-hop")) == (b"0\r\n\r\nGET /smuggled", "1", None)
    assert call.header("transfer-encoding") is None
    assert call.header("host") == backend.url.removeprefix("http://")


@pytest.mark.parametrize(
    "changed",
    [
        {"headers": [["x-a", INJECTED]]},
        {"headers": [["x-a\r\nx-injected", "1"]]},
        {"status": 99},
        {"status": 700},
        {"blob": {"name": "../../etc/passwd", "size_bytes": 3}},
        {"blob": {"name": f"responses/{uuid.uuid4()}/response-x", "size_bytes": 3}},
        "no answer",
    ],
)
def test_an_answer_that_cannot_be_sent_is_a_fault_of_torils_own(
    proxq: Proxq, backend: Backend, valkey: ValkeyProcess, changed: Any
) -> None:
    job_id = proxq.submit("GET", f"/api{backend.path(respond(200))}")
    proxq.is_in(job_id, "completed")
    sound = {"status": 200, "reason": "OK", "headers": [["x-a", "1"]], "body": "hi"}
    with valkey.client() as redis:
        key = f"bull:{proxq.queue}/api:{job_id}"
        redis.hset(key, "response", json.dumps(sound | changed if isinstance(changed, dict) else changed))
        answer = proxq.content(job_id)
        assert (answer.status, answer.is_ours, answer.value("x-injected")) == (500, True, None)
        redis.hset(key, "response", json.dumps(sound))
    assert (proxq.content(job_id).status, proxq.content(job_id).body) == (200, b"hi")


@pytest.mark.parametrize(
    "order",
    [
        {"url": "URL", "job": INJECTED},
        {"url": "URL\r\nx-injected: 1", "job": "JOB"},
        {"url": "file:///etc/passwd", "job": "JOB"},
        {"job": "JOB"},
        "no order",
    ],
)
def test_a_malformed_stored_callback_fails_once(proxq: Proxq, backend: Backend, order: Any) -> None:
    path = backend.path(respond(200))
    text = json.dumps(order).replace("URL", backend.url + path).replace("JOB", str(uuid.uuid4()))
    job = written(proxq, json.loads(text), ".callbacks")
    assert (job["state"], job["attemptsMade"]) == ("failed", 1)
    assert job["failedReason"].startswith("the job holds no callback that can be made: ")
    assert backend.calls(path) == []


@pytest.mark.parametrize("prefix", ["/api", "/away", "/past", "/past/now", "/away/now"])
@pytest.mark.parametrize("climb", ["/../admin", "/..;/admin", "/%2e%2E/admin", "/a/..;x/..%2fadmin", "/..%5cadmin"])
def test_a_path_that_leads_out_of_the_upstreams_is_refused_however_it_goes_there(
    proxq: Proxq, backend: Backend, prefix: str, climb: str
) -> None:
    up = "/.." if prefix.endswith("/now") else ""
    path = backend.path(respond(200))
    answer = proxq.send("GET", f"{prefix}{up}{climb}{path}")
    assert (answer.status, answer.is_ours) == (400, True)
    assert answer.json == {"code": "BAD_REQUEST", "message": "The path leads out of the upstream's own path"}
    assert backend.calls(path) == []


def test_a_path_that_stays_inside_the_upstreams_passes_as_it_is(proxq: Proxq, backend: Backend) -> None:
    path = backend.path(respond(200))
    proxq.is_in(proxq.submit("GET", f"/api/a/../b/./c//d{path}/e%2Ff/.."), "completed")
    assert [call.target for call in backend.calls(path)] == [f"/own/a/../b/./c//d{path}/e%2Ff/.."]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyProcess, backend: Backend) -> Iterator[TorilProcess]:
    folder = tmp_path_factory.mktemp("stored-deliveries")
    file = configuration(
        folder / "toril.yaml",
        {"billing": {"url": backend.url, "retry": {"base": "1s", "max_attempts": 3}}},
        ledger={"url": "none"},
        queue_prefix="stored",
    )
    with TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(file)]) as server:
        yield server


def tampered(valkey: ValkeyProcess, job_id: str, field: str, change: Any) -> None:
    """Change a delivery's row in Redis; text is written as it is."""
    with Redis.from_url(valkey.url) as redis:
        (row,) = [key for key in redis.scan_iter(f"*d:{job_id}", count=10_000) if redis.hexists(key, field)]
        held = redis.hget(row, field)
        assert isinstance(held, bytes)
        packed = change if isinstance(change, bytes) else msgspec.msgpack.encode(msgspec.msgpack.decode(held) | change)
        redis.hset(row, field, packed)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "POST / HTTP/1.1\r\nx-injected: 1\r\n\r\nGET"},
        {"path": "/PATH HTTP/1.1\r\nx-injected: 1\r\nx: "},
        {"path": "/a/..;/b"},
        {"headers": [["x-a", INJECTED]]},
        {"headers": [["x-a\r\nx-injected", "1"]]},
        {"headers": [["transfer-encoding", "chunked"]]},
        {"headers": [["host", "other"]]},
        {"headers": [["toril-attempt", "7"]]},
        {"content": {"type": "stored", "name": f"deliveries/{uuid.uuid4()}/request-x", "size_bytes": 1}},
        b"no envelope",
    ],
)
def test_a_row_that_could_not_have_been_posted_becomes_a_dead_letter_and_spoils_no_other(
    door: TorilProcess, valkey: ValkeyProcess, backend: Backend, change: Any
) -> None:
    caller = Door(door.gateway)
    path = backend.path(respond(200))
    bad = caller.enqueue("billing", path=path, body=1, delay_ms=1_500)
    tampered(valkey, bad, "e", change)
    good = caller.enqueue("billing", path=path, body=2)
    assert caller.job(good, wait=30)["status"] == "delivered"
    ended = caller.job(bad, wait=30)
    assert (ended["status"], ended["reason"], len(ended["attempts"])) == ("dead_lettered", "invalid_envelope", 1)
    assert ended["last_error"]
    assert [call.body for call in backend.calls(path)] == [b"2"]


def test_only_an_unreadable_row_is_missing_from_lists(door: TorilProcess, valkey: ValkeyProcess) -> None:
    caller = Door(door.gateway)
    bad, good = caller.enqueue("billing", **LATER), caller.enqueue("billing", **LATER)
    tampered(valkey, bad, "s", b"no delivery")
    assert good in caller.jobs()
    assert bad not in caller.jobs()
    assert caller.http.get(f"/jobs/{bad}").status_code == 404
    assert any("ledger.row_unreadable" in line and bad in line for line in door.log().splitlines())


@pytest.mark.parametrize(
    "change", [{"headers": [["x-a", INJECTED]]}, {"headers": [["x\r\ny", "1"]]}, {"status": 999}, b"no answer"]
)
def test_a_recorded_answer_that_cannot_be_sent_is_not_replayed(
    door: TorilProcess, valkey: ValkeyProcess, backend: Backend, change: Any
) -> None:
    caller = Door(door.gateway)
    job_id = caller.enqueue("billing", path=backend.path(respond(200)))
    assert caller.job(job_id, wait=30)["status"] == "delivered"
    assert caller.http.get(f"/jobs/{job_id}/response").status_code == 200
    tampered(valkey, job_id, "r", change)
    answer = caller.http.get(f"/jobs/{job_id}/response")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_response")
    assert caller.http.get(f"/jobs/{job_id}").status_code == 200


@pytest.mark.parametrize("path", ["/a/..;/b", "/%2e%2e;x", "/a/..%20/b", "/..\\b", "/a%2f..%5cb", "/.;x/a"])
def test_an_envelope_with_dot_segments_in_any_spelling_is_refused(door: TorilProcess, path: str) -> None:
    answer = Door(door.gateway).post({"target": "billing", "path": path})
    assert (answer.status_code, answer.json()["field"]) == (400, "path")
