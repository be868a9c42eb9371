"""Bodies over the threshold go to the store, and come back as they were."""

from collections.abc import AsyncIterator

import pytest

from toril.core.blob import BlobRef
from toril.core.errors import BlobLost, BlobsUnavailable
from toril.core.metrics import PAYLOAD_FAILURES
from toril.payloads.payload_offload import PayloadOffload
from toril.testing import FakeBlobs, FakeClock, FakeMeter

LARGE = bytes(range(256)) * 1000


@pytest.fixture
def blobs() -> FakeBlobs:
    return FakeBlobs(FakeClock())


@pytest.fixture
def spill(blobs: FakeBlobs) -> PayloadOffload:
    return PayloadOffload(blobs, 1000)


async def keep(spill: PayloadOffload, body: bytes) -> bytes | BlobRef:
    return await spill.keep("deliveries", "job-1", "request", body)


async def collect(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in stream])


@pytest.mark.parametrize("size", [0, 1, 1000])
async def test_a_body_up_to_the_threshold_stays_inline(blobs: FakeBlobs, spill: PayloadOffload, size: int) -> None:
    body = b"x" * size
    kept = await keep(spill, body)
    assert kept == body
    assert blobs.calls == []
    assert await spill.whole(kept) == body
    assert await collect(spill.stream(kept)) == body


@pytest.mark.parametrize("body", [b"x" * 1001, LARGE, LARGE * 10])
async def test_a_longer_body_travels_as_a_reference(blobs: FakeBlobs, spill: PayloadOffload, body: bytes) -> None:
    kept = await keep(spill, body)
    assert isinstance(kept, BlobRef)
    assert kept.size_bytes == len(body)
    assert blobs.bodies == {kept.name: body}
    assert await spill.whole(kept) == body
    assert await collect(spill.stream(kept)) == body


async def test_storing_a_body_again_gives_the_same_reference(blobs: FakeBlobs, spill: PayloadOffload) -> None:
    assert await keep(spill, LARGE) == await keep(spill, LARGE)
    assert len(blobs.bodies) == 1


async def test_without_a_store_everything_stays_inline() -> None:
    assert await keep(PayloadOffload(None, 10), LARGE) == LARGE


async def test_a_body_that_cannot_be_stored_is_not_kept(blobs: FakeBlobs, spill: PayloadOffload) -> None:
    blobs.fault = BlobsUnavailable()
    with pytest.raises(BlobsUnavailable):
        await keep(spill, LARGE)


async def test_bodies_that_cannot_be_stored_or_read_are_counted(blobs: FakeBlobs, spill: PayloadOffload) -> None:
    meter = spill.meter = FakeMeter()
    kept = await keep(spill, LARGE)
    assert meter.counts == {}
    blobs.fault = BlobsUnavailable()
    with pytest.raises(BlobsUnavailable):
        await keep(spill, LARGE)
    for _ in range(2):
        with pytest.raises(BlobsUnavailable):
            await spill.whole(kept)
    with pytest.raises(BlobsUnavailable):
        await collect(spill.stream(kept))
    assert meter.counts == {(PAYLOAD_FAILURES, ("stored",)): 1, (PAYLOAD_FAILURES, ("read",)): 3}


async def test_the_threshold_may_change(spill: PayloadOffload) -> None:
    before = await keep(spill, LARGE)
    spill.threshold_bytes = len(LARGE)
    assert await keep(spill, LARGE) == LARGE
    assert await spill.whole(before) == LARGE


@pytest.mark.parametrize("stored", [None, b"", LARGE[:-1], LARGE[:-1] + b"!", LARGE + b"!"])
async def test_a_body_that_has_changed_counts_as_lost(
    blobs: FakeBlobs, spill: PayloadOffload, stored: bytes | None
) -> None:
    kept = await keep(spill, LARGE)
    assert isinstance(kept, BlobRef)
    blobs.bodies.clear()
    if stored is not None:
        blobs.bodies[kept.name] = stored
    with pytest.raises(BlobLost):
        await spill.whole(kept)
    got: list[bytes] = []

    async def read() -> None:
        async for piece in spill.stream(kept):
            got.append(piece)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(BlobLost):
        await read()
    assert sum(map(len, got)) < len(LARGE)


async def test_a_reference_without_a_store_says_what_is_missing(spill: PayloadOffload) -> None:
    kept = await keep(spill, LARGE)
    with pytest.raises(BlobLost, match=r"payloads\.url"):
        await PayloadOffload(None, 1000).whole(kept)
