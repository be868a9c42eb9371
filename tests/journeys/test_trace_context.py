"""The trace context of a caller reaches the endpoint, the callback and the target, on every attempt, as it came."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Call, Endpoint, reply_json, reply_text, respond
from tests.support.gateway import worker
from tests.support.proxied import READY, Proxied
from tests.support.proxq import Proxq
from tests.support.toril import TorilProcess
from tests.support.valkey import ValkeyProcess

TRACE = {
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate": "vendor=1",
    "baggage": "user=7,tenant=t1",
}
OTHER = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-00"
NONE = dict.fromkeys(TRACE)


def seen(call: Call) -> dict[str, str | None]:
    """The trace context that a call brought."""
    return {name: call.header(name) for name in TRACE}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def toril(folder: Path, valkey: ValkeyProcess, endpoint: Endpoint) -> Iterator[TorilProcess]:
    retry = {"base": "20ms", "max": "20ms", "max_attempts": 3}
    file = configuration(
        folder / "toril.yaml",
        {"traced": {"url": endpoint.at("/target"), "retry": retry, "breaker": "off"}},
        ledger={"url": f"sqlite:///{folder / 'ledger.sqlite3'}"},
    )
    env = {"QUEUE_PREFIX": "traces", "WORKER_METADATA_KEY": "traces-w", "WORKER_METADATA_STREAM": "traces-s"}
    with TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(file)], env=env) as server:
        yield server
    assert server.complaints() == []


def last_calls(endpoint: Endpoint, count: int) -> list[dict[str, str | None]]:
    return [seen(call) for call in endpoint.calls[-count:]]


def added(toril: TorilProcess, queue: str, headers: dict[str, str], **opts: Any) -> dict[str, Any]:
    """Add a job with these headers, and return it when it has ended."""
    body = [{"name": "work", "data": {}, "opts": opts}]
    answer = toril.client.post(f"/queues/{queue}/jobs", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return toril.gateway.finished(queue, answer.json()[0]["id"])


def test_a_job_holds_the_context_where_bullmq_does_and_each_attempt_brings_it(
    toril: TorilProcess, endpoint: Endpoint
) -> None:
    endpoint.behaviour = lambda call: (
        reply_text("no", 500, "No") if call.job["attemptsMade"] == 0 else reply_json({"done": True})
    )
    toril.gateway.register("traced", endpoint.url)
    job = added(toril, "traced", TRACE, attempts=2)
    assert json.loads(job["opts"]["telemetry"]["metadata"]) == TRACE
    assert last_calls(endpoint, 2) == [TRACE, TRACE]


def test_a_job_may_bring_its_own_context_or_want_none(toril: TorilProcess, endpoint: Endpoint) -> None:
    endpoint.behaviour = lambda _: reply_json({"done": True})
    toril.gateway.register("own", endpoint.url)
    own = json.dumps({"traceparent": OTHER})
    assert added(toril, "own", TRACE, telemetry={"metadata": own})["opts"]["telemetry"] == {"metadata": own}
    added(toril, "own", TRACE, telemetry={"omitContext": True})
    assert "telemetry" not in added(toril, "own", {})["opts"]
    added(toril, "own", TRACE | {"traceparent": "nonsense"})
    assert last_calls(endpoint, 4) == [NONE | {"traceparent": OTHER}, NONE, NONE, NONE | {"baggage": TRACE["baggage"]}]


def test_a_header_of_the_registration_wins(toril: TorilProcess, endpoint: Endpoint) -> None:
    endpoint.behaviour = lambda _: reply_json({"done": True})
    toril.gateway.register_document(worker("registered", endpoint.url, headers={"TraceParent": OTHER}))
    added(toril, "registered", TRACE)
    assert last_calls(endpoint, 1) == [TRACE | {"traceparent": OTHER}]


def test_each_job_of_a_flow_has_the_trace_context(toril: TorilProcess, endpoint: Endpoint) -> None:
    endpoint.behaviour = lambda _: reply_json({"done": True})
    for queue in ("flow-parent", "flow-child"):
        toril.gateway.register(queue, endpoint.url)
    child = {"name": "c", "queueName": "flow-child", "data": {}}
    flow = {"name": "p", "queueName": "flow-parent", "data": {}, "children": [child]}
    answer = toril.client.post("/flows", json=flow, headers=TRACE)
    assert answer.status_code == 200, answer.text
    toril.gateway.finished("flow-parent", answer.json()["job"]["id"])
    assert last_calls(endpoint, 2) == [TRACE, TRACE]


def test_every_attempt_of_a_delivery_carries_the_context_and_equal_envelopes_stay_equal(
    toril: TorilProcess, endpoint: Endpoint
) -> None:
    door = Door(toril.gateway)
    endpoint.behaviour = lambda call: (
        respond(503, "No") if call.header("toril-attempt") == "1" else respond(204, "No Content")
    )

    def post(trace: dict[str, str], **envelope: Any) -> Any:
        headers = trace | {"idempotency-key": "traced-once"} if "body" in envelope else trace
        return toril.client.post("/enqueue", json={"target": "traced"} | envelope, headers=headers)

    first = post(TRACE, body=1)
    assert first.status_code == 202, first.text
    assert door.job(first.json()["job_id"], wait=30)["status"] == "delivered"
    assert last_calls(endpoint, 2) == [TRACE, TRACE]
    again = post(TRACE | {"traceparent": OTHER}, body=1)
    assert (again.status_code, again.json()["job_id"]) == (200, first.json()["job_id"])
    own = post(TRACE, headers={"Traceparent": OTHER})
    assert door.job(own.json()["job_id"], wait=30)["status"] == "delivered"
    assert last_calls(endpoint, 1) == [TRACE | {"traceparent": OTHER}]
    batch = toril.client.post("/enqueue/batch", json=[{"target": "traced"}], headers=TRACE).json()
    assert door.job(batch[0]["job_id"], wait=30)["status"] == "delivered"
    assert last_calls(endpoint, 1) == [TRACE]


def test_a_proxied_request_and_its_callback_carry_the_trace_context(
    tmp_path: Path, valkey: ValkeyProcess, endpoint: Endpoint
) -> None:
    endpoint.behaviour = lambda _: respond(body=b"ok")
    secret = "whsec_" + base64.b64encode(b"k" * 32).decode()
    upstream = {"prefix": "/api", "url": endpoint.at("")}
    config = Proxied(tmp_path, [upstream], queue="traced", callback={"secrets": [secret]})
    env = {"QUEUE_PREFIX": "traced-p"}
    toril = TorilProcess(valkey.url, tmp_path / "toril.log", **config.arguments, env=env)
    try:
        door = Proxq(toril.start(READY), "traced")
        before = len(endpoint.calls)
        headers = [*TRACE.items(), ("X-Toril-Callback", endpoint.at("/called-back"))]
        door.is_in(door.submit("POST", "/api/x", headers, b"1"), "completed")
        calls = endpoint.wait_for_calls(before + 2)[before:]
        assert [(call.target, seen(call)) for call in calls] == [("/x", TRACE), ("/called-back", TRACE)]
    finally:
        toril.close()
