"""The delivery executor and bodies: offloaded, streamed, signed, missing, or too large to keep."""

import base64
import hashlib
import hmac

import pytest
from msgspec.structs import replace

from tests.unit.delivery.pipeline import SPEC, Pipeline
from tests.unit.engine.support import turns
from toril.core.errors import (
    BlobsUnavailable,
)
from toril.core.http.signing import Secret
from toril.core.outcome import ConnectFailed, CutOff
from toril.delivery.rules.delivery import AttemptOutcome, Envelope, Inline, Stored
from toril.delivery.rules.lifecycle import Status
from toril.delivery.rules.target import BreakerPolicy, Signing, TargetSpec
from toril.testing import (
    FakeClock,
    answered,
)


async def stored(pipeline: Pipeline, body: bytes) -> Envelope:
    kept = await pipeline.offload.keep("deliveries", "1", "request", body)
    assert not isinstance(kept, bytes)
    return Envelope(content=Stored(kept.name, kept.size_bytes))


async def test_an_offloaded_body_is_sent_whole(pipeline: Pipeline) -> None:
    body = b"x" * 5000
    await pipeline.accept(envelope=await stored(pipeline, body))
    pipeline.endpoints.open()
    await pipeline.work()
    assert [request.body for request in pipeline.outbound.requests] == [body]


async def test_a_large_body_is_read_while_it_is_sent(pipeline: Pipeline) -> None:
    body = bytes(range(256)) * 8192
    await pipeline.accept(envelope=await stored(pipeline, body))
    pipeline.endpoints.open()
    await pipeline.work()
    (request,) = pipeline.outbound.requests
    assert request.stream is not None
    assert (request.stream.size_bytes, request.body) == (len(body), b"")
    assert b"".join([piece async for piece in request.stream.open()]) == body


@pytest.mark.parametrize("size", [100, 5000, 2_000_000])
async def test_inline_and_offloaded_bodies_are_signed_as_a_whole(clock: FakeClock, size: int) -> None:
    key = b"k" * 32
    pipeline = Pipeline(clock, replace(SPEC, signing=Signing(secret_file="/x", secrets=(Secret(key),))))
    body = b"x" * size
    await pipeline.accept(envelope=await stored(pipeline, body) if size > 1000 else Envelope(content=Inline(body)))
    pipeline.endpoints.open()
    await pipeline.work()
    (request,) = pipeline.outbound.requests
    head = dict(line.split(b": ", 1) for line in request.head.split(b"\r\n")[1:-1])
    signed = b"%b.%b.%b" % (head[b"webhook-id"], head[b"webhook-timestamp"], body)
    assert head[b"webhook-id"] == b"1"
    assert head[b"webhook-signature"] == b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256))
    assert (request.stream is not None) == (size > 1_000_000)


async def test_while_the_store_is_away_the_job_is_snoozed(pipeline: Pipeline) -> None:
    await pipeline.accept(envelope=await stored(pipeline, b"x" * 5000))
    pipeline.blobs.fault = BlobsUnavailable()
    await pipeline.work()
    assert pipeline.outbound.requests == []
    delivery = pipeline.ledger.deliveries["1"]
    assert (delivery.status, delivery.attempts_made) == (Status.QUEUED, 0)
    assert list(pipeline.store.delayed) == [b"1"]
    pipeline.blobs.fault = None
    pipeline.clock.jump(6)
    pipeline.endpoints.open()
    await pipeline.work()
    assert pipeline.ledger.deliveries["1"].status is Status.DELIVERED


async def test_a_delivery_whose_body_is_missing_becomes_a_dead_letter(pipeline: Pipeline) -> None:
    await pipeline.accept(envelope=await stored(pipeline, b"x" * 5000))
    pipeline.blobs.bodies.clear()
    await pipeline.work()
    assert pipeline.ledger.deliveries["1"].reason == "body_lost"
    assert not pipeline.store.active


async def test_a_large_answer_is_offloaded_or_else_cut_short(pipeline: Pipeline) -> None:
    await pipeline.accept("1")
    await pipeline.accept("2")
    pipeline.endpoints.open(answered(200, b"y" * 5000))
    await pipeline.work()
    content = pipeline.ledger.responses["1"].content
    assert isinstance(content, Stored)
    assert pipeline.blobs.bodies[content.name] == b"y" * 5000
    pipeline.blobs.fault = BlobsUnavailable()
    await pipeline.work()
    response = pipeline.ledger.responses["2"]
    assert (response.content, response.truncated) == (Inline(b"y" * 1000), True)
    assert pipeline.ledger.deliveries["2"].status is Status.DELIVERED


async def test_each_kind_of_failure_is_recorded_by_its_name(pipeline: Pipeline) -> None:
    ways = {
        "a": (ConnectFailed("ERR_TLS", "", 0.1), AttemptOutcome.TLS_ERROR),
        "b": (ConnectFailed("ECONNREFUSED", "", 0.1), AttemptOutcome.CONNECT_ERROR),
        "c": (CutOff("ECONNRESET", "", 0.1), AttemptOutcome.CUT_OFF),
        "d": (ConnectFailed("EGRESS_DENIED", "", 0.1), AttemptOutcome.EGRESS_REFUSED),
    }
    pipeline.target.renew(TargetSpec(name="billing", url=SPEC.url, breaker=BreakerPolicy(failures=100)))
    for job_id, (outcome, name) in ways.items():
        pipeline.endpoints.open(outcome)
        await pipeline.accept(job_id)
        await pipeline.work()
        assert pipeline.attempts(job_id) == [(1, name.value)]
    await turns(1)
