"""Spans of toril, as a real OTLP receiver gets them: what belongs to which trace, and what each span says."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.deliveries import Door, configuration
from tests.support.endpoint import Endpoint, reply_json, reply_text, respond
from tests.support.gateway import job
from tests.support.otlp import OtlpReceiver, ReceivedSpan
from tests.support.ports import free_port
from tests.support.proxied import READY, Proxied
from tests.support.toril import StartToril, TorilProcess
from tests.support.traced import CALLER, CALLERS_SPAN, CALLERS_TRACE, parent_of, traced
from tests.support.valkey import ValkeyProcess

SECONDS_NS = 1_000_000_000


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
    tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyProcess, endpoint: Endpoint, receiver: OtlpReceiver
) -> Iterator[TorilProcess]:
    folder = tmp_path_factory.mktemp("spans")
    retry = {"base": "20ms", "max": "20ms", "max_attempts": 3}
    file = configuration(
        folder / "toril.yaml",
        {"traced": {"url": endpoint.at("/target"), "retry": retry, "breaker": "off"}},
        ledger={"url": f"sqlite:///{folder / 'ledger.sqlite3'}"},
    )
    env = {"QUEUE_PREFIX": "spans", "WORKER_METADATA_KEY": "spans-w", "WORKER_METADATA_STREAM": "spans-s"}
    with TorilProcess(valkey.url, folder / "toril.log", args=["--config", str(file)], env=env | traced(receiver)) as it:
        yield it
    assert it.complaints() == []


def events(toril: TorilProcess, name: str) -> list[dict[str, Any]]:
    """The log lines of an event."""
    lines = [json.loads(line) for line in toril.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def test_the_first_attempt_of_a_prompt_job_is_in_the_trace_of_the_request_that_added_it(
    toril: TorilProcess, endpoint: Endpoint, receiver: OtlpReceiver
) -> None:
    endpoint.behaviour = lambda _: reply_json({"done": True})
    toril.gateway.register("prompt", endpoint.url)
    answer = toril.client.post(
        "/queues/prompt/jobs", json=[job()], headers={"traceparent": CALLER, "baggage": "user=7"}
    )
    job_id = answer.json()[0]["id"]
    (server,) = [one for one in receiver.named("POST /queues/{queue}/jobs") if one.parent == CALLERS_SPAN]
    assert (server.kind, server.service, server.failed) == ("server", "toril", False)
    assert server.attributes["http.route"] == "/queues/{queue}/jobs"
    assert (server.attributes["http.response.status_code"], server.attributes["url.path"]) == (
        200,
        "/queues/prompt/jobs",
    )
    (send,) = receiver.named("send prompt")
    (process,) = receiver.named("process prompt")
    (settle,) = receiver.named("settle prompt")
    (client,) = receiver.below(process, "POST")
    assert [one.kind for one in (send, process, settle, client)] == ["producer", "consumer", "client", "client"]
    assert (send.parent, process.parent, settle.parent) == (server.span, send.span, process.span)
    assert {one.trace for one in (server, send, process, settle, client)} == {CALLERS_TRACE}
    assert process.attributes["messaging.message.id"] == job_id
    assert process.attributes["messaging.destination.name"] == "prompt"
    assert process.links == ()
    assert (client.attributes["http.response.status_code"], client.attributes["url.full"]) == (200, endpoint.url)
    call = endpoint.calls[-1]
    assert parent_of(call) == (client.trace, client.span)
    assert call.header("baggage") == "user=7"
    assert len([name for name, _ in call.headers if name.lower() == "traceparent"]) == 1
    stored = json.loads(toril.gateway.job("prompt", job_id)["opts"]["telemetry"]["metadata"])
    assert stored["traceparent"].split("-")[1:3] == [send.trace, send.span]


def test_a_retry_is_a_trace_of_its_own_with_a_link_and_no_span_lasts_over_the_wait(
    toril: TorilProcess, endpoint: Endpoint, receiver: OtlpReceiver
) -> None:
    endpoint.behaviour = lambda call: (
        reply_text("no", 503, "Busy") if call.job["attemptsMade"] == 0 else reply_json({"done": True})
    )
    toril.gateway.register("retried", endpoint.url)
    toril.gateway.finished("retried", toril.gateway.add_one("retried", attempts=2, backoff=1500))
    first, second = receiver.named("process retried", 2)
    (send,) = receiver.named("send retried")
    assert (first.parent, first.trace, first.failed) == (send.span, send.trace, True)
    assert (first.attributes["error.type"], first.attributes["toril.attempt"]) == ("503", 1)
    assert (second.parent, second.links, second.failed) == ("", ((send.trace, send.span),), False)
    assert second.trace != send.trace
    assert (second.attributes["toril.attempt"], parent_of(endpoint.calls[-1])[0]) == (2, second.trace)
    spans = [one for one in receiver.spans if "retried" in one.name or one.trace == second.trace]
    assert all(one.ended_ns - one.began_ns < SECONDS_NS for one in spans)


def test_a_delayed_job_and_jobs_that_were_added_together_are_linked(
    toril: TorilProcess, endpoint: Endpoint, receiver: OtlpReceiver
) -> None:
    endpoint.behaviour = lambda _: reply_json({"done": True})
    for queue in ("delayed", "many"):
        toril.gateway.register(queue, endpoint.url)
    toril.gateway.add_one("delayed", delay=20)
    toril.gateway.add("many", job(), job())
    for queue, count in (("delayed", 1), ("many", 2)):
        (send,) = receiver.named(f"send {queue}")
        found = receiver.named(f"process {queue}", count)
        assert [(one.parent, one.links) for one in found] == [("", ((send.trace, send.span),))] * count
        assert len({one.trace for one in [send, *found]}) == 1 + count


def test_a_failing_connection_is_an_error_of_the_attempt(toril: TorilProcess, receiver: OtlpReceiver) -> None:
    toril.gateway.register("refused", f"http://127.0.0.1:{free_port()}/")
    toril.gateway.add_one("refused")
    (process,) = receiver.named("process refused")
    (client,) = receiver.below(process, "POST")
    assert (process.failed, process.attributes["error.type"], client.failed) == (True, "ECONNREFUSED", True)


def test_attempts_of_a_delivery_are_traced_the_same_way(
    toril: TorilProcess, endpoint: Endpoint, receiver: OtlpReceiver
) -> None:
    endpoint.behaviour = lambda call: (
        respond(503, "No") if call.header("toril-attempt") == "1" else respond(204, "No Content")
    )
    answer = toril.client.post("/enqueue", json={"target": "traced", "body": 1}, headers={"traceparent": CALLER})
    assert Door(toril.gateway).job(answer.json()["job_id"], wait=30)["status"] == "delivered"
    (send,) = receiver.named("send traced")
    attempts = [one for one in receiver.spans if one.name.startswith("process ") and one.name.endswith("traced")]
    first, second = receiver.named(attempts[0].name, 2)
    assert (first.parent, first.trace) == (send.span, CALLERS_TRACE)
    assert (second.parent, second.links) == ("", ((send.trace, send.span),))
    assert parent_of(endpoint.calls[-1])[0] == second.trace


def test_log_lines_of_an_attempt_and_of_a_request_carry_the_ids(
    toril: TorilProcess, endpoint: Endpoint, receiver: OtlpReceiver
) -> None:
    endpoint.behaviour = lambda _: reply_text("no", 500, "No")
    toril.gateway.register("logged", endpoint.url)
    job_id = toril.gateway.add_one("logged")
    (process,) = receiver.named("process logged")
    toril.gateway.finished("logged", job_id)
    (line,) = [one for one in events(toril, "attempt") if one["queue"] == "logged"]
    assert (line["trace_id"], line["span_id"]) == (process.trace, process.span)
    toril.client.post("/queues/logged/pause", headers={"traceparent": CALLER})
    (line,) = [one for one in events(toril, "audit") if one["action"] == "POST /queues/{queue}/pause"]
    assert line["trace_id"] == CALLERS_TRACE


def test_a_proxied_request_is_one_trace_from_the_caller_to_the_upstream(
    tmp_path: Path, valkey: ValkeyProcess, endpoint: Endpoint, receiver: OtlpReceiver, start_toril: StartToril
) -> None:
    endpoint.behaviour = lambda _: respond(body=b"ok")
    secret = "whsec_" + base64.b64encode(b"k" * 32).decode()
    config = Proxied(
        tmp_path, [{"prefix": "/api", "url": endpoint.at("")}], queue="spanned", callback={"secrets": [secret]}
    )
    toril = start_toril(valkey, READY, **config.arguments, env={"QUEUE_PREFIX": "spans-p"} | traced(receiver))
    answer = toril.client.get("/api/x", headers={"traceparent": CALLER})
    assert answer.status_code == 202, answer.text
    (send,) = receiver.named("send /api")
    (process,) = receiver.below(send)
    (client,) = receiver.below(process, "GET")
    assert {one.trace for one in (send, process, client)} == {CALLERS_TRACE}
    assert parent_of(endpoint.calls[-1]) == (client.trace, client.span)


@pytest.mark.parametrize(
    "env", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}]
)
def test_the_standard_variables_switch_it_off(
    valkey: ValkeyProcess, start_toril: StartToril, receiver: OtlpReceiver, env: dict[str, str]
) -> None:
    toril = start_toril(valkey, env=traced(receiver) | {"OTEL_SERVICE_NAME": "silent"} | env)
    toril.client.get("/queues")
    toril.terminate()
    assert [one for one in receiver.spans if one.service == "silent"] == []
    told = ["OTLP by grpc"] if "OTEL_EXPORTER_OTLP_PROTOCOL" in env else []
    assert [one["reason"] for one in events(toril, "traces.off")] == told


def test_what_is_left_is_sent_when_toril_ends_and_the_service_has_its_name(
    valkey: ValkeyProcess, start_toril: StartToril, receiver: OtlpReceiver
) -> None:
    env = traced(receiver) | {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_SERVICE_NAME": "gate"}
    toril = start_toril(valkey, env=env)
    toril.client.get("/whoami", headers={"traceparent": CALLER})
    toril.terminate()

    def mine() -> list[ReceivedSpan]:
        return [one for one in receiver.spans if one.service == "gate" and one.name == "GET /whoami"]

    assert [one.parent for one in mine()] == [CALLERS_SPAN]


def test_a_collector_that_is_away_harms_nothing(valkey: ValkeyProcess, start_toril: StartToril) -> None:
    toril = start_toril(valkey, env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert toril.client.get("/whoami").status_code == 200
    toril.terminate()


def test_without_the_variables_nothing_of_the_sdk_is_imported() -> None:
    code = (
        "import sys; from toril.asgi import create_app; from toril.config.settings import Settings;"
        "create_app(Settings()); assert not [name for name in sys.modules if name.startswith('opentelemetry.exporter')]"
    )
    environment: dict[str, Any] = {"PATH": "/usr/bin"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment | {"PYTHONPATH": ":".join(sys.path)})
