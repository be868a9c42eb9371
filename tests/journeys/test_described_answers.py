"""Every JSON answer of a real server is held to the type that its route describes: job JSON is spliced from what Redis
stores, and so are messages over sockets, so no encoder sees to that. Undescribed fields fail, and so do missing ones.
"""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import yaml

from tests.journeys.test_mcp import headers_of, modern
from tests.support.described import JSON, DescribedAnswers, held_to
from tests.support.endpoint import Endpoint, hang, respond
from tests.support.gateway import Gateway, job, worker
from tests.support.ports import free_port
from tests.support.proxq import Backend
from tests.support.sockets import socket_to
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from tests.unit.proxy.test_description import made
from toril.config.settings import Settings
from toril.delivery.rules.target import TargetSpec
from toril.proxy.rules.proxied_job import ProxiedJobStatus
from toril.proxy.rules.upstream import ProxyPolicy, Upstream
from toril.queues.shapes.answers import BulkDone
from toril.queues.shapes.socket_messages import SocketAnswer, SocketEventMessage, SocketWorkMessage

OWN = "/__toril"
QUEUE = "described"
JOBS = f"/queues/{QUEUE}/jobs"
EVERY = {"every": 3_600_000, "template": {"data": {"n": 1}}}
UNSEEN = {("GET", f"{OWN}/ready", 503), ("GET", f"{OWN}/openapi.json", 200)}
"""An outage has its own tests, and a validator reads the document."""
SERVED = made(
    Settings(
        targets=(TargetSpec(name="billing", url="http://target.example"),),
        proxy=ProxyPolicy(upstreams=(Upstream(prefix="/api", url="http://upstream.example"),), api_path=OWN),
    )
).served()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> Iterator[TorilProcess]:
    """A toril with all doors. Its target answers 200."""
    folder = tmp_path_factory.mktemp("described")
    with Endpoint(lambda _: respond(200, body=b"{}")) as target, ValkeyProcess(folder / "valkey") as valkey:
        config = folder / "toril.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "targets": {
                        "billing": {"url": target.url},
                        "closed": {"url": f"http://127.0.0.1:{free_port()}", "retry": {"max_attempts": 1}},
                    },
                    "ledger": {"url": f"sqlite:///{folder}/ledger.sqlite3"},
                    "upstreams": [{"prefix": "/api", "url": backend.url}],
                }
            )
        )
        toril = TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(config)])
        try:
            yield toril.start(f"{OWN}/ready")
        finally:
            toril.close()
        assert toril.complaints() == []


class Caller:
    """Makes requests, and holds each JSON answer to its description."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.answers = DescribedAnswers(SERVED)

    def __call__(self, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        answer = self.http.request(method, path, json=body, headers=headers)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        if not answer.headers.get("content-type", "").startswith(JSON):
            return answer.text
        return self.answers.hold(method, answer.request.url.path, answer.status_code, answer.content)


@pytest.fixture
def api(server: TorilProcess) -> Iterator[Caller]:
    """A caller of toril's own API."""
    gateway = Gateway(server.url + OWN)
    yield Caller(gateway.http)
    gateway.close()


def test_every_json_answer_is_the_one_that_its_route_describes(server: TorilProcess, api: Caller) -> None:
    queues(api)
    jobs(api)
    workers(api)
    deliveries(api)
    operations(api)
    agents(api)
    proxied(api, Caller(server.client), api.answers)
    assert api.answers.left - UNSEEN == set()


def queues(api: Caller) -> None:
    added = api("POST", JOBS, [job({"a": 1}, jobId="waits"), job(jobId="held", deduplication={"id": "key"})])
    assert [one["id"] for one in added] == ["waits", "held"]
    api("GET", f"/queues/{QUEUE}/deduplication/key")
    api("PUT", f"/queues/{QUEUE}/concurrency", {"concurrency": 5})
    api("GET", f"/queues/{QUEUE}/concurrency")
    api("PUT", f"/queues/{QUEUE}/rate-limit", {"max": 100, "duration": 1000})
    api("GET", f"/queues/{QUEUE}/rate-limit")
    assert api("GET", f"/queues/{QUEUE}")["rateLimit"] == {"max": 100, "duration": 1000}
    for path in ("concurrency", "rate-limit"):
        api("DELETE", f"/queues/{QUEUE}/{path}")
        api("GET", f"/queues/{QUEUE}/{path}")
    limited = {"concurrency": 2, "limit": {"max": 5, "duration": 1000}, "weight": 3, "max_waiting": 9, "paused": True}
    assert api("PUT", f"/queues/{QUEUE}/groups/a", limited)["paused"]
    api("GET", f"/queues/{QUEUE}/groups/b")
    api("GET", f"/queues/{QUEUE}/groups?limit=1")
    api("POST", f"/queues/{QUEUE}/groups/a/drain")
    api("DELETE", f"/queues/{QUEUE}/groups/a")
    api("GET", "/queues?limit=1")
    api("GET", f"/queues/{QUEUE}/priorities?priorities=0,1")
    api("PUT", f"/queues/{QUEUE}/schedulers/every", EVERY)
    api("PUT", f"/queues/{QUEUE}/schedulers/daily", {"pattern": "0 3 * * *", "tz": "Europe/Berlin", "limit": 5})
    api("GET", f"/queues/{QUEUE}/schedulers/daily?next=3")
    assert api("GET", f"/queues/{QUEUE}/schedulers")["count"] == api("GET", "/schedulers")["count"] == 2
    api("POST", f"/queues/{QUEUE}/promote")
    api("POST", f"/queues/{QUEUE}/remove-orphans")
    api("POST", f"/queues/{QUEUE}/remove-orphans", {"restore": True})
    api("POST", f"/queues/{QUEUE}/trim-events", {"maxLength": 1000})
    for path, body in (
        ("drain", None),
        ("clean", {"state": "completed", "grace": 0, "limit": 0}),
        ("obliterate", None),
    ):
        api("POST", f"/queues/{QUEUE}/{path}", body)


def jobs(api: Caller) -> None:
    leased = [lease(api, jobId=name, priority=3, attempts=2, backoff=60_000) for name in ("done", "broken", "again")]
    api("POST", f"{JOBS}/done/progress", {"of": 100}, leased[0]["token"])
    api("POST", f"{JOBS}/done/logs", "a line", leased[0]["token"])
    api("GET", "/connections")
    ends = [
        {"action": "complete", "returnvalue": {"ok": True}},
        {"action": "fail", "reason": "no paper", "unrecoverable": True},
        {"action": "fail", "reason": "no ink"},
    ]
    settled = [{"id": one["job"]["id"], "token": one["token"]} | end for one, end in zip(leased, ends, strict=True)]
    results = api("POST", f"/queues/{QUEUE}/settle", {"jobs": [*settled, settled[0], {"id": "x"}]})["results"]
    assert [one["status"] for one in results] == [204, 204, 204, 409, 400]
    api("POST", JOBS, [job(jobId="waits"), job(jobId="late", delay=3_600_000)])
    page = api("GET", f"{JOBS}?statuses=waiting,completed,failed,delayed")
    assert [one["id"] for one in page["jobs"]] == ["waits", "done", "broken", "late", "again"]
    for name in ("done", "broken", "again"):
        api("GET", f"{JOBS}/{name}")
        api("GET", f"{JOBS}/{name}/attempts")
    assert api("GET", f"{JOBS}/done?expand=state,logs,dependencies")["state"] == "completed"
    api("GET", f"{JOBS}/done/logs")
    assert api("GET", f"{JOBS}/done/result") == {"ok": True}
    api("GET", f"{JOBS}/waits/result")
    api("GET", f"/queues/{QUEUE}/search?where=id%20%3D%20done")
    api("POST", f"{JOBS}/done/copy", {"name": "copy"})
    tree = {"name": "parent", "queueName": QUEUE, "children": [{"name": "child", "queueName": QUEUE, "data": 1}]}
    flow = api("POST", "/flows", tree)
    api("POST", "/flows", [tree])
    parent, child = flow["job"]["id"], flow["children"][0]["job"]["id"]
    api("GET", f"{JOBS}/{parent}/flow")
    api("GET", f"{JOBS}/{parent}?expand=dependencies")
    api("POST", f"{JOBS}/{child}/detach")
    api("POST", f"/queues/{QUEUE}/bulk", {"action": "remove", "ids": ["copy", "late"]})
    api("POST", f"/queues/{QUEUE}/retry")
    api("GET", f"/queues/{QUEUE}/metrics")


def lease(api: Caller, **options: Any) -> dict[str, Any]:
    """Add a job and lease it."""
    api("POST", JOBS, [job({"a": 1}, **options)])
    asked = {"wait_ms": 10_000, "lock_ms": 60_000, "worker": "tester"}
    (leased,) = api("POST", f"/queues/{QUEUE}/lease", asked)["jobs"]
    return dict(leased)


def workers(api: Caller) -> None:
    with Endpoint(lambda _: respond(500)) as endpoint:
        api("POST", JOBS.replace(QUEUE, "pushed"), [job()])
        api("POST", "/workers", worker("pushed", endpoint.url, concurrency=3, headers={"x-key": "secret"}))
        eventually(lambda: api("GET", "/workers/pushed")["recent"], what="the attempt of a worker")
        assert list(api("GET", "/workers")) == ["pushed"]
        api("DELETE", "/workers/pushed")


def deliveries(api: Caller) -> None:
    envelope = {"target": "billing", "body": {"a": 1}, "labels": {"shop": "7"}}
    for _ in range(2):
        accepted = api.http.post("/enqueue", json=envelope, headers={"idempotency-key": "one"})
        api.answers.hold("POST", f"{OWN}/enqueue", accepted.status_code, accepted.content)
    delivered = accepted.json()["job_id"]
    assert api("GET", f"/jobs/{delivered}?wait=20")["response"]["status"] == 200
    later = api("POST", "/enqueue", envelope | {"delay_ms": 3_600_000})["job_id"]
    api("DELETE", f"/jobs/{later}")
    failing = api("POST", "/enqueue/batch", [{"target": "closed"}, {"target": "nowhere"}])[0]["job_id"]
    assert api("GET", f"/jobs/{failing}?wait=20")["status"] == "dead_lettered"
    api("GET", f"/jobs/{delivered}/envelope")
    api("GET", "/jobs?limit=1")
    assert len(api("GET", "/targets/closed/dead-letters")["jobs"]) == 1
    api("POST", "/targets/closed/dead-letters/replay", {"job_ids": [failing], "dry_run": True})
    assert [one["name"] for one in api("GET", "/targets")["targets"]] == ["billing", "closed"]
    api("GET", "/targets/closed")


def operations(api: Caller) -> None:
    for path in (
        "/health",
        "/ready",
        "/whoami",
        "/audit",
        "/doctor",
        "/stats",
        f"/stats?queue={QUEUE}",
        f"/stats?queues={QUEUE}",
    ):
        api("GET", path)
    api("POST", "/reload")


def agents(api: Caller) -> None:
    legacy = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {name.replace("_", "-"): value for name, value in headers_of("resources/list").items()}
    for status, message, given in (
        (200, legacy, {}),
        (400, legacy | {"jsonrpc": "1.0"}, {}),
        (404, modern("resources/list"), headers),
    ):
        answer = api.http.post("/mcp", json=message, headers=given)
        assert answer.status_code == status, answer.text
        api.answers.hold("POST", answer.request.url.path, status, answer.content)


def proxied(api: Caller, door: Caller, answers: DescribedAnswers) -> None:
    door.answers = answers
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        done = door(method, "/api/echo")["jobId"]
    assert door("GET", f"/__jobs/{done}?wait=20")["status"] == "completed"
    api("GET", "/upstreams")
    assert api("GET", f"/proxied/{done}")["response"]["status"] == 200
    replayed = api("POST", f"/proxied/{done}/replay")["jobId"]
    door("DELETE", f"/__jobs/{replayed}")


def test_a_failed_proxied_job_is_answered_as_described(server: TorilProcess, backend: Backend) -> None:
    hung = server.client.get(f"/api{backend.path(hang())}", headers={"x-proxq-timeout": "1s"}).json()["jobId"]
    shown = server.client.get(f"/__jobs/{hung}").content
    assert held_to(ProxiedJobStatus, shown)["status"] in {"queued", "running"}
    server.client.delete(f"/__jobs/{hung}")


def test_events_of_actions_and_proxied_jobs_have_the_described_form(server: TorilProcess, backend: Backend) -> None:
    http = server.client
    http.post(f"{OWN}/queues/many/jobs", json=[job(), job()])
    stream = http.post(
        f"{OWN}/queues/many/bulk",
        json={"action": "remove", "states": ["waiting"]},
        headers={"accept": "text/event-stream"},
    )
    assert [held_to(BulkDone, data) for data in data_of(stream.text)][-1]["done"] == 2
    job_id = http.post("/api/states", content=b"x").json()["jobId"]
    stream = http.get(f"/__jobs/{job_id}", headers={"accept": "text/event-stream"})
    assert [held_to(ProxiedJobStatus, data) for data in data_of(stream.text)][-1]["status"] == "completed"


def data_of(stream: str) -> list[str]:
    """The data of the events in a stream."""
    return [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]


def test_socket_messages_have_the_described_form(server: TorilProcess) -> None:
    url = server.url + OWN

    def message(socket: Any, kind: Any) -> Any:
        return held_to(kind, socket.connection.recv(timeout=10))

    with (
        socket_to(url, "/ws/queues/framed") as commands,
        socket_to(url, "/ws/queues/framed/events?events=added,active,completed,drained") as events,
        socket_to(url, "/ws/queues/framed/process/1?payload=job") as work,
    ):
        for fn, *args in (("add", "work", {"a": 1}, {}), ("getJobCounts",), ("getWorkers",), ("pause",), ("nothing",)):
            commands.send({"id": 1, "data": {"fn": fn, "args": args}})
            message(commands, SocketAnswer)
        commands.send({"id": 1, "data": {"fn": "resume", "args": []}})
        message(commands, SocketAnswer)
        sent = message(work, SocketWorkMessage)
        work.finish(sent)
        work.send({"data": {"type": "ping"}})
        assert message(work, SocketWorkMessage)["data"] == {"type": "pong"}
        assert [message(events, SocketEventMessage)["data"]["event"] for _ in range(2)] == ["added", "active"]
        eventually(lambda: message(events, SocketEventMessage)["data"]["event"] == "completed", what="its end")
        events.send({"id": 2, "data": {"fn": "off", "args": ["added", "active", "completed", "drained"]}})
        while "event" in (text := events.connection.recv(timeout=10)):
            held_to(SocketEventMessage, text)
        assert held_to(SocketAnswer, text) == {"id": 2, "data": {"ok": []}}
