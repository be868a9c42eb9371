"""Callers' secrets are hidden from tokens without `payloads:read` wherever the API shows what holds them; whoever
works on a job gets it whole.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.journeys.test_rights import NEEDING, path_of
from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Endpoint, respond
from tests.support.gateway import PLAIN
from tests.support.sockets import socket_to
from tests.support.tokens import ask, bearer, token
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril.core.access import Right
from toril.core.redaction import HIDDEN

SECRET = "c4ll3rs-s3cr3t"
PAIRS = [["a", "1"], ["authorization", f"Bearer {SECRET}"], ["Cookie", f"c={SECRET}"], ["set-cookie", SECRET]]
REQUEST = {"method": "POST", "target": "/x?n=1", "headers": PAIRS, "timeout": 1.50, "body": "hi"}
ANSWER = {"status": 200, "reason": "OK", "headers": PAIRS}
EVERYTHING_ELSE = [right for right in Right if right is not Right.PAYLOADS_READ]
QUEUE = "seen-secrets"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    def echo(_: Any) -> Any:
        return respond(200, "OK", [("Set-Cookie", SECRET), ("X-Key", SECRET), ("X-A", "1")], b"done")

    with Endpoint(echo) as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("secrets")


@pytest.fixture(scope="module")
def toril(folder: Path, valkey: ValkeyProcess, endpoint: Endpoint) -> Iterator[TorilProcess]:
    (folder / "key").write_text(SECRET)
    auth = {"scheme": "header", "header": "X-Key", "secret_file": str(folder / "key")}
    file = configuration(
        folder / "toril.yaml",
        {
            "seen-billing": {"url": endpoint.url, "auth": auth},
            "seen-plain": {"url": endpoint.url, "auth": {"scheme": "passthrough"}},
        },
        ledger={"url": f"sqlite:///{folder / 'ledger.sqlite3'}"},
        tokens=[
            token("blind", EVERYTHING_ELSE),
            token("sighted", [*EVERYTHING_ELSE, "payloads:read"]),
            token("here-only", ["payloads:read", "jobs:read"], ["other-*"]),
            token("all", ["*"]),
            token("reader", ["*:read"]),
        ],
    )
    with TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(file)]) as server:
        yield server
    assert server.complaints() == []


def finished(toril: TorilProcess, queue: str, job_id: str) -> None:
    """Let a job end with an answer for its return value."""
    with httpx.Client(base_url=toril.url, trust_env=False, verify=PLAIN, headers=bearer("all-secret")) as http:
        leased = http.post(f"/queues/{queue}/lease", json={"count": 10, "wait_ms": 5000}).json()["jobs"]
        for one in leased:
            path = f"/queues/{queue}/jobs/{one['job']['id']}"
            lock = bearer(one["token"])
            http.post(f"{path}/progress", json=ANSWER, headers=lock)
            http.post(f"{path}/complete", json={"returnvalue": ANSWER}, headers=lock)
        assert job_id in [one["job"]["id"] for one in leased]


@pytest.fixture(scope="module")
def delivery(toril: TorilProcess) -> str:
    door = Door(toril.gateway)
    job_id = door.enqueue("seen-billing", headers={"cookie": SECRET}, body={"key": SECRET})
    assert door.job(job_id, wait=30)["status"] == "delivered"
    return job_id


@pytest.fixture(scope="module")
def queue(toril: TorilProcess) -> Iterator[str]:
    """A queue with job p1 (over, and so is its child), w1 (waiting), a scheduler and a worker, all with secrets."""
    with httpx.Client(base_url=toril.url, trust_env=False, verify=PLAIN, headers=bearer("all-secret")) as http:
        child = {"name": "c", "queueName": f"{QUEUE}-child", "data": REQUEST, "opts": {"jobId": "c1"}}
        flow = {"name": "p", "queueName": QUEUE, "data": REQUEST, "opts": {"jobId": "p1"}, "children": [child]}
        assert http.post("/flows", json=flow).status_code == 200
        finished(toril, f"{QUEUE}-child", "c1")
        finished(toril, QUEUE, "p1")
        assert http.post(f"/queues/{QUEUE}/pause").status_code in {200, 204}
        added = http.post(f"/queues/{QUEUE}/jobs", json=[{"name": "w", "data": REQUEST, "opts": {"jobId": "w1"}}])
        assert added.status_code == 200
        scheduler = {"every": 3_600_000, "template": {"name": "s", "data": REQUEST}}
        assert http.put(f"/queues/{QUEUE}/schedulers/1", json=scheduler).status_code == 200
        worker = {"queue": f"{QUEUE}-worker", "endpoint": {"url": "http://127.0.0.1:4/", "method": "POST"}}
        worker["endpoint"]["headers"] = {"authorization": SECRET, "x-key": SECRET}  # type: ignore[index]
        assert http.post("/workers", json=worker).status_code == 200
    yield QUEUE
    toril.gateway.unregister(f"{QUEUE}-worker")


def paths(queue: str, delivery: str) -> Iterator[str]:
    """Every GET that could show a secret: each route of the table, with each of what there is."""
    for route in NEEDING:
        if route.method != "GET":
            continue
        for job_id in ("p1", "w1", "1"):
            path = path_of(route, queue, delivery).replace("/jobs/1", f"/jobs/{job_id}")
            yield path
            if route.path == "/queues/{queue}/jobs/{id}":
                yield f"{path}?expand=state,logs,dependencies"
    for status in ("waiting", "completed", "delayed"):
        yield f"/queues/{queue}/jobs?statuses={status}"
    yield f"/workers/{queue}-worker"
    yield f"/jobs/{delivery}?wait=1"
    yield f"/queues/{queue}/jobs/p1/result?wait=1"


@pytest.mark.promise
def test_no_route_shows_a_secret_to_a_token_without_the_right(toril: TorilProcess, queue: str, delivery: str) -> None:
    shown = {}
    for path in dict.fromkeys(paths(queue, delivery)):
        if path.endswith("/events") or path.startswith("/events"):
            continue
        blind, sighted = ask(toril.url, "blind-secret", "GET", path), ask(toril.url, "sighted-secret", "GET", path)
        if path.endswith("/body"):
            assert (blind.status_code, sighted.status_code) in {(403, 200), (403, 404), (403, 409)}, path
        else:
            assert blind.status_code == sighted.status_code, path
        assert SECRET not in blind.text, path
        assert SECRET not in str(blind.headers), path
        if SECRET in sighted.text + str(sighted.headers):
            shown[path] = blind.text
    # What the test is about was there to be shown.
    for path in (
        f"/queues/{queue}/jobs?statuses=waiting", f"/queues/{queue}/jobs?statuses=completed",
        f"/queues/{queue}/jobs/p1",
        f"/queues/{queue}/jobs/p1?expand=state,logs,dependencies", f"/queues/{queue}/jobs/p1/result",
        f"/queues/{queue}/jobs/p1/flow", f"/queues/{queue}/schedulers", f"/queues/{queue}/schedulers/1",
        f"/jobs/{delivery}", f"/jobs/{delivery}/envelope",
    ):  # fmt: skip
        assert HIDDEN in shown[path], path
    assert f"/jobs/{delivery}/response" in shown  # the target's own header
    assert f"/jobs/{delivery}/envelope/body" in shown


def test_hidden_fields_are_marked_and_all_others_are_shown(toril: TorilProcess, queue: str, delivery: str) -> None:
    found = ask(toril.url, "blind-secret", "GET", f"/queues/{queue}/jobs/p1").json()
    hidden = [["a", "1"], ["authorization", HIDDEN], ["Cookie", HIDDEN], ["set-cookie", HIDDEN]]
    assert found["data"] == REQUEST | {"headers": hidden}
    assert found["returnvalue"] == found["progress"] == ANSWER | {"headers": hidden}
    headers = ask(toril.url, "blind-secret", "GET", f"/jobs/{delivery}").json()["response"]["headers"]
    assert (headers["Set-Cookie"], headers["X-Key"], headers["X-A"]) == (HIDDEN, HIDDEN, "1")
    assert ask(toril.url, "blind-secret", "GET", f"/jobs/{delivery}/response").text == "done"


def test_an_authorization_that_passes_through_reaches_the_target(toril: TorilProcess, endpoint: Endpoint) -> None:
    given = "Bearer pass3d-on"
    job_id = Door(toril.gateway).enqueue("seen-plain", headers={"authorization": given}, body=1)
    assert given not in ask(toril.url, "blind-secret", "GET", f"/jobs/{job_id}?wait=30").text
    envelope = ask(toril.url, "all-secret", "GET", f"/jobs/{job_id}/envelope").json()
    assert envelope["headers"]["authorization"] == HIDDEN, "it is never shown again"
    assert given in [call.header("authorization") for call in endpoint.calls]


@pytest.mark.parametrize("name", ["sighted", "all", "reader"])
def test_tokens_with_the_right_see_secrets(toril: TorilProcess, queue: str, delivery: str, name: str) -> None:
    assert ask(toril.url, f"{name}-secret", "GET", f"/queues/{queue}/jobs/p1").json()["data"] == REQUEST
    assert SECRET in ask(toril.url, f"{name}-secret", "GET", f"/jobs/{delivery}").text
    assert SECRET in toril.client.get(f"/queues/{queue}/jobs/p1").text


def test_the_right_to_see_secrets_holds_for_its_queues_only(toril: TorilProcess, valkey: ValkeyProcess) -> None:
    toril.gateway.add("other-1", {"name": "x", "data": REQUEST})
    assert SECRET in ask(toril.url, "here-only-secret", "GET", "/queues/other-1/jobs").text


def test_sockets_hide_secrets_in_jobs_they_read_and_echo(toril: TorilProcess, queue: str) -> None:
    for name, shows in (("blind", False), ("sighted", True)):
        with socket_to(toril.url, f"/ws/queues/{queue}", f"{name}-secret") as socket:
            for command in (("getJobs", ["waiting", "completed"]), ("add", "x", REQUEST)):
                answer = json.dumps(socket.command(*command))
                assert (SECRET in answer) is shows, command
                assert (HIDDEN in answer) is not shows, command


def test_an_added_job_is_echoed_without_secrets(toril: TorilProcess) -> None:
    for path, body in (
        ("/queues/seen-echo/jobs", [{"name": "x", "data": REQUEST}]),
        ("/flows", {"name": "x", "queueName": "seen-echo", "data": REQUEST}),
    ):
        answer = ask(toril.url, "blind-secret", "POST", path, body)
        assert answer.status_code == 200, answer.text
        assert SECRET not in answer.text
        assert SECRET in ask(toril.url, "sighted-secret", "POST", path, body).text


@pytest.mark.parametrize("path", ["/queues/{}/events?since=0", "/events?queues={}&since=0"])
def test_event_streams_hide_return_values(toril: TorilProcess, queue: str, path: str) -> None:
    for name, expected in (("blind", HIDDEN), ("sighted", SECRET)):
        with (
            httpx.Client(base_url=toril.url, trust_env=False, verify=PLAIN, headers=bearer(f"{name}-secret")) as http,
            http.stream("GET", path.format(queue), timeout=20) as stream,
        ):
            seen = ""
            for line in stream.iter_lines():
                seen += line
                if "returnvalue" in line:
                    break
        assert expected in seen
        assert (SECRET in seen) is (name == "sighted")


def test_event_sockets_hide_return_values(toril: TorilProcess, queue: str) -> None:
    for name in ("blind", "sighted"):
        path = f"/ws/queues/{queue}/events?events=completed,progress&since=0"
        with socket_to(toril.url, path, f"{name}-secret") as socket:
            told = json.dumps([socket.receive(), socket.receive()])
        assert (SECRET in told, HIDDEN in told) == (name == "sighted", name == "blind")


def test_a_worker_gets_the_whole_job(toril: TorilProcess, endpoint: Endpoint) -> None:
    name = "seen-work"
    toril.gateway.add(name, {"name": "x", "data": REQUEST})
    leased = ask(toril.url, "blind-secret", "POST", f"/queues/{name}/lease", {"wait_ms": 5000}).json()["jobs"]
    assert leased[0]["job"]["data"] == REQUEST
    toril.gateway.add(f"{name}-pushed", {"name": "x", "data": REQUEST})
    toril.gateway.register(f"{name}-pushed", endpoint.url)
    eventually(lambda: any(SECRET in call.body.decode() for call in endpoint.calls), what="the job at its endpoint")
    toril.gateway.unregister(f"{name}-pushed")


def test_a_worker_that_cannot_run_does_not_show_its_headers(toril: TorilProcess, valkey: ValkeyProcess) -> None:
    endpoint: Any = {"url": "http://127.0.0.1:4/", "method": "POST", "headers": [["authorization", SECRET]]}
    for number, document in enumerate(({"endpoint": endpoint}, {"endpoint": [endpoint]})):
        queue = f"seen-broken-{number}"
        valkey.client().hset("bmqp:w:meta", queue, json.dumps({"queue": queue} | document))
        for name in ("blind", "sighted"):
            answer = ask(toril.url, f"{name}-secret", "GET", f"/workers/{queue}")
            assert (answer.json()["state"], SECRET in answer.text) == ("invalid", False)
        valkey.client().hdel("bmqp:w:meta", queue)
