"""Traces go on to workers on sockets, to those that lease jobs, and to upstreams without a queue; real OTLP."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from websockets.sync.client import connect

from tests.support.endpoint import Endpoint, reply_json, respond
from tests.support.gateway import TOKEN, job
from tests.support.otlp import OtlpReceiver
from tests.support.ports import free_port
from tests.support.proxied import READY, Proxied
from tests.support.sockets import SocketClient, socket_to
from tests.support.toril import StartToril, TorilProcess
from tests.support.traced import CALLER, CALLERS_SPAN, CALLERS_TRACE, parent_of, traced
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

STORE = {"QUEUE_PREFIX": "onward", "WORKER_METADATA_KEY": "onward-w", "WORKER_METADATA_STREAM": "onward-s"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as server:
        yield server


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        yield server


@pytest.fixture(scope="module")
def toril(
    tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyProcess, receiver: OtlpReceiver
) -> Iterator[TorilProcess]:
    log = tmp_path_factory.mktemp("onward") / "toril.log"
    with TorilProcess(valkey.url, log, env=STORE | traced(receiver)) as it:
        yield it
    assert it.complaints() == []


def test_a_worker_on_a_socket_is_sent_the_context_of_its_attempt(toril: TorilProcess, receiver: OtlpReceiver) -> None:
    with socket_to(toril.url, "/ws/queues/socketed/process/1?payload=job") as worker:
        toril.client.post("/queues/socketed/jobs", json=[job()], headers={"traceparent": CALLER, "baggage": "user=7"})
        message = worker.receive()
        worker.send({"id": message["id"], "data": {"result": 1}})
        (process,) = receiver.named("process socketed")
    (send,) = receiver.named("send socketed")
    trace = message["data"]["payload"]["trace"]
    assert trace["traceparent"].split("-")[1:3] == [process.trace, process.span] == [CALLERS_TRACE, process.span]
    assert trace["baggage"] == "user=7"
    assert (process.parent, process.failed) == (send.span, False)
    with socket_to(toril.url, "/ws/queues/bare/process/1") as worker:
        toril.gateway.add_one("bare", data={"n": 1})
        message = worker.receive()
        worker.send({"id": message["id"], "err": {"message": "no"}})
        (process,) = receiver.named("process bare")
    assert message["data"] == {"type": "process", "payload": {"n": 1}}
    assert (process.failed, process.attributes["error.type"]) == (True, "worker_error")


def test_what_is_added_over_a_socket_is_a_trace_of_its_own_unless_it_brings_one(
    toril: TorilProcess, endpoint: Endpoint, receiver: OtlpReceiver
) -> None:
    endpoint.behaviour = lambda _: reply_json({})
    for queue in ("linked", "given"):
        toril.gateway.register(queue, endpoint.url)
    headers = {"authorization": f"Bearer {TOKEN}", "traceparent": CALLER}
    url = toril.url.replace("http://", "ws://")
    with connect(f"{url}/ws/queues/linked", additional_headers=headers, proxy=None) as connection:
        assert "ok" in SocketClient(connection).command("add", "n", {}, {})
    (send,) = receiver.named("send linked")
    (process,) = receiver.named("process linked")
    assert (send.kind, send.parent, send.links) == ("producer", "", ((CALLERS_TRACE, CALLERS_SPAN),))
    assert (process.trace, process.parent) == (send.trace, send.span)
    with socket_to(toril.url, "/ws/queues/given") as socket:
        brought = {"telemetry": {"metadata": json.dumps({"traceparent": CALLER})}}
        assert socket.command("add", "n", {}, brought)["ok"]["opts"]["telemetry"] == brought["telemetry"]
    (send,) = receiver.named("send given")
    assert (send.parent, receiver.named("process given")[0].parent) == (CALLERS_SPAN, CALLERS_SPAN)


def test_the_span_of_a_leased_job_lasts_from_its_lease_to_its_settlement(
    toril: TorilProcess, receiver: OtlpReceiver
) -> None:
    toril.client.post("/queues/pulled/jobs", json=[job(attempts=2)], headers={"traceparent": CALLER, "baggage": "a=1"})
    (send,) = receiver.named("send pulled")
    leased = toril.client.post("/queues/pulled/lease", json={}).json()["jobs"][0]
    trace, job_id = leased["trace"], leased["job"]["id"]
    asked = time.time_ns()
    failed = toril.client.post(
        f"/queues/pulled/jobs/{job_id}/fail",
        json={"reason": "no"},
        headers={"authorization": f"Bearer {leased['token']}", "traceparent": trace["traceparent"]},
    )
    assert failed.status_code == 204, failed.text
    (process,) = receiver.named("process pulled")
    (settle,) = receiver.named("settle pulled")
    assert trace["traceparent"].split("-")[1:3] == [process.trace, process.span]
    assert (process.trace, process.parent, trace["baggage"]) == (CALLERS_TRACE, send.span, "a=1")
    assert (process.attributes["error.type"], process.attributes["messaging.message.id"]) == ("worker_error", job_id)
    assert process.began_ns // 10**6 == toril.gateway.job("pulled", job_id)["processedOn"]
    assert process.ended_ns > asked
    request = receiver.one(settle.parent)
    assert (request.name, request.parent) == ("POST /queues/{queue}/jobs/{id}/fail", process.span)
    # Settled in a batch, at another instance: another attempt of the job, which is a trace of its own.
    again = toril.client.post("/queues/pulled/lease", json={"wait_ms": 20_000}).json()["jobs"][0]
    item = {"id": job_id, "token": again["token"], "action": "complete"}
    assert toril.client.post("/queues/pulled/settle", json={"jobs": [item]}).json()["results"][0]["status"] == 204
    second = receiver.named("process pulled", 2)[1]
    assert (second.parent, second.links, second.failed) == ("", ((send.trace, send.span),), False)
    assert again["trace"]["traceparent"].split("-")[1:3] == [second.trace, second.span]


def test_another_instance_may_settle_what_one_has_leased(
    toril: TorilProcess, valkey: ValkeyProcess, receiver: OtlpReceiver, start_toril: StartToril
) -> None:
    other = start_toril(valkey, env=STORE | traced(receiver) | {"OTEL_SERVICE_NAME": "other"})
    job_id = toril.gateway.add_one("travels")
    leased = toril.client.post("/queues/travels/lease", json={}).json()["jobs"][0]
    done = other.client.post(
        f"/queues/travels/jobs/{job_id}/complete", json={}, headers={"authorization": f"Bearer {leased['token']}"}
    )
    assert done.status_code == 204
    (process,) = receiver.named("process travels")
    assert leased["trace"]["traceparent"].split("-")[1:3] == [process.trace, process.span]
    assert (process.service, process.parent) == ("other", receiver.named("send travels")[0].span)


def test_a_job_that_is_settled_later_has_the_span_of_its_push_and_one_of_its_settlement(
    toril: TorilProcess, endpoint: Endpoint, receiver: OtlpReceiver
) -> None:
    endpoint.behaviour = lambda _: respond(202, "Accepted", [("toril-settle", "later")])
    toril.gateway.register("later", endpoint.url)
    job_id = toril.gateway.add_one("later")
    (process,) = receiver.named("process later")
    token = endpoint.calls[-1].json["token"]
    done = toril.client.post(
        f"/queues/later/jobs/{job_id}/complete", json={}, headers={"authorization": f"Bearer {token}"}
    )
    assert done.status_code == 204, done.text
    (settle,) = receiver.named("settle later")
    request = receiver.one(settle.parent)
    assert request.name == "POST /queues/{queue}/jobs/{id}/complete"
    assert receiver.named("process later") == [process]


def test_metrics_have_exemplars_of_requests_and_attempts(
    toril: TorilProcess, endpoint: Endpoint, receiver: OtlpReceiver
) -> None:
    endpoint.behaviour = lambda _: reply_json({})
    toril.gateway.register("exemplary", endpoint.url)
    toril.gateway.finished("exemplary", toril.gateway.add_one("exemplary"))
    (process,) = receiver.named("process exemplary")
    answer = toril.client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    samples = [one for family in text_string_to_metric_families(answer.text) for one in family.samples if one.exemplar]
    of_queue = {one.name: one.exemplar for one in samples if one.labels.get("queue") == "exemplary"}
    names = ("toril_job_wait", "toril_attempt", "toril_job")
    assert set(of_queue) == {f"{name}_duration_seconds_bucket" for name in names}
    assert {one.labels["trace_id"] for one in of_queue.values() if one} == {process.trace}
    assert {one.labels["span_id"] for one in of_queue.values() if one} == {process.span}
    others = {one.name for one in samples} - set(of_queue)
    assert others == {"toril_request_duration_seconds_bucket", "toril_accept_duration_seconds_bucket"}
    assert toril.client.get("/metrics").headers["content-type"].startswith("text/plain")


def test_a_request_that_passes_through_has_a_span_and_takes_it_along(
    tmp_path: Path, valkey: ValkeyProcess, endpoint: Endpoint, receiver: OtlpReceiver, start_toril: StartToril
) -> None:
    endpoint.behaviour = lambda call: respond(503 if call.target == "/direct/bad" else 200, body=b"ok")
    nowhere = f"http://127.0.0.1:{free_port()}"
    config = Proxied(
        tmp_path,
        [
            {"prefix": "/api", "url": endpoint.at(""), "pathFilter": {"patterns": ["/direct"]}},
            {"prefix": "/gone", "url": nowhere, "pathFilter": {"patterns": ["/direct"]}},
        ],
        queue="passed",
    )
    toril = start_toril(valkey, READY, **config.arguments, env={"QUEUE_PREFIX": "spans-d"} | traced(receiver))
    headers = {"traceparent": CALLER, "tracestate": "v=1", "baggage": "a=1"}
    for path, status, error in (("/api/direct/x?secret=1", 200, None), ("/api/direct/bad", 503, "503")):
        assert toril.client.get(path, headers=headers).status_code == status
        call = endpoint.calls[-1]
        client = receiver.one(parent_of(call)[1])
        server = receiver.one(client.parent)
        assert (client.kind, client.trace, server.parent) == ("client", CALLERS_TRACE, CALLERS_SPAN)
        assert client.attributes["url.full"] == endpoint.at(path.removeprefix("/api").partition("?")[0])
        assert (client.attributes["http.response.status_code"], client.attributes.get("error.type")) == (status, error)
        assert [call.header(name) for name in ("tracestate", "baggage")] == ["v=1", "a=1"]
        assert len([name for name, _ in call.headers if name.lower() == "traceparent"]) == 1
    assert toril.client.get("/gone/direct").status_code == 502
    failed = eventually(
        lambda: [one for one in receiver.spans if one.attributes.get("url.full") == f"{nowhere}/direct"]
    )
    assert [one.attributes["error.type"] for one in failed] == ["ECONNREFUSED"]


def test_without_spans_workers_get_the_context_of_the_job(valkey: ValkeyProcess, start_toril: StartToril) -> None:
    toril = start_toril(valkey, env={"QUEUE_PREFIX": "onward-off"})
    for queue in ("leased", "socketed"):
        toril.client.post(f"/queues/{queue}/jobs", json=[job()], headers={"traceparent": CALLER, "baggage": "a=1"})
        toril.gateway.add_one(queue)
    first, second = toril.client.post("/queues/leased/lease", json={"count": 2}).json()["jobs"]
    assert (first["trace"], "trace" in second) == ({"traceparent": CALLER, "baggage": "a=1"}, False)
    with socket_to(toril.url, "/ws/queues/socketed/process/2?payload=job") as worker:
        payloads = [message["data"]["payload"] for message in worker.jobs(2)]
    found = {payload["job"]["id"]: payload.get("trace") for payload in payloads}
    assert found == {"1": {"traceparent": CALLER, "baggage": "a=1"}, "2": None}
