import json
from typing import Any

import pytest

from toril.cli.listen.local_worker import MOST_MESSAGE_BYTES, LocalWorker, read_job, reply
from toril.core.destination import OutboundRequest
from toril.core.outcome import Outcome
from toril.core.verdict import Complete, DeadLetter, Fail, HandOver, Retry, Snooze, Verdict
from toril.queues.rules.worker import Endpoint, WorkerSpec
from toril.testing import FakeOutbound, answered


def payload(**more: Any) -> bytes:
    job = {
        "id": "7", "name": "charge", "data": 1, "opts": {"attempts": 3, "backoff": {"type": "fixed", "delay": 500}},
        "attemptsMade": 1, "timestamp": 1_700_000_000_000, "queueQualifiedName": "acme:orders", "token": "t",
    }  # fmt: skip
    return json.dumps({"job": job | more, "token": "t"}).encode()


def test_a_job_is_read_and_its_bytes_stay() -> None:
    job = read_job("orders", payload())
    assert (job.name, job.prefix, job.body) == ("charge", "acme", payload())
    assert (job.lease.job_id, job.lease.token, job.lease.attempt, job.lease.options.attempts) == (b"7", b"t", 2, 3)


async def test_a_trace_goes_into_the_headers_as_for_a_registered_endpoint() -> None:
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    brought = json.dumps(json.loads(payload()) | {"trace": {"traceparent": parent, "baggage": "a=1"}}).encode()

    async def done(_: OutboundRequest) -> Outcome:
        return answered(204)

    outbound = FakeOutbound(done)
    spec = WorkerSpec("orders", Endpoint("http://127.0.0.1:3000/charge", "POST"))
    await LocalWorker(spec, outbound.pool(spec.endpoint.url), "toril/1").call(read_job("orders", brought))
    assert json.loads(outbound.requests[0].body) == json.loads(payload())
    assert outbound.requests[0].head.endswith(f"traceparent: {parent}\r\nbaggage: a=1\r\n".encode())


@pytest.mark.parametrize(
    ("attempts_made", "verdict"), [(1, Retry), (2, Fail)], ids=["attempts are left", "none is left"]
)
async def test_the_jobs_own_options_say_whether_it_is_tried_again(attempts_made: int, verdict: type) -> None:
    async def busy(_: OutboundRequest) -> Outcome:
        return answered(503)

    outbound = FakeOutbound(busy)
    spec = WorkerSpec("orders", Endpoint("http://127.0.0.1:3000/charge", "POST"))
    worker = LocalWorker(spec, outbound.pool(spec.endpoint.url), "toril/1", lambda: 0.0)
    called = await worker.call(read_job("orders", payload(attemptsMade=attempts_made)))
    assert isinstance(called.verdict, verdict)
    assert outbound.requests[0].body == payload(attemptsMade=attempts_made)


@pytest.mark.parametrize(
    ("verdict", "message"),
    [
        (Complete(b'{"a":1}'), {"id": 3, "data": {"result": {"a": 1}}}),
        (HandOver(60_000), {"id": 3, "data": {"later": 60_000}}),
        (Snooze(5000, "x"), {"id": 3, "data": {"snooze": 5000}}),
        (Retry(500, "busy", "at x"), {"id": 3, "err": {"message": "busy", "stack": "at x", "retryIn": 500}}),
        (Fail("no", "at x"), {"id": 3, "err": {"message": "no", "stack": "at x", "unrecoverable": True}}),
    ],
)
def test_each_verdict_has_its_message(verdict: Verdict, message: dict[str, Any]) -> None:
    assert json.loads(reply(3, verdict)) == message


def test_an_answer_that_no_message_can_hold_fails_the_job() -> None:
    said = json.loads(reply(3, Complete(b'"%b"' % (b"x" * MOST_MESSAGE_BYTES))))
    assert said["err"]["unrecoverable"] is True
    assert "longer than" in said["err"]["message"]


def test_an_endpoint_decides_on_no_dead_letter() -> None:
    with pytest.raises(TypeError):
        reply(3, DeadLetter("refused", "x"))
