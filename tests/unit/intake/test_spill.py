"""Bodies over the threshold go to the store, and come back as they were."""

from collections.abc import AsyncIterator

import pytest

from toril.core.blob import BlobRef
from toril.core.errors import BlobLost, BlobsUnavailable
from toril.intake.spill import Spill
from toril.testing import FakeBlobs, FakeClock

LARGE = bytes(range(256)) * 1000


@pytest.fixture
def blobs() -> FakeBlobs:
    return FakeBlobs(FakeClock())


@pytest.fixture
def spill(blobs: FakeBlobs) -> Spill:
    return Spill(blobs, 1000)


async def keep(spill: Spill, body: bytes) -> bytes | BlobRef:
    return await spill.keep("deliveries", "job-1", "request", body)


async def collect(stream: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in stream])


@pytest.mark.parametrize("size", [0, 1, 1000])
async def test_a_body_up_to_the_threshold_stays_inline(blobs: FakeBlobs, spill: Spill, size: int) -> None:
    body = b"x" * size
    kept = await keep(spill, body)
    assert kept == body
    assert blobs.calls == []
    assert await spill.whole(kept) == body
    assert await collect(spill.stream(kept)) == body


@pytest.mark.parametrize("body", [b"x" * 1001, LARGE, LARGE * 10])
async def test_a_longer_body_travels_as_a_reference(blobs: FakeBlobs, spill: Spill, body: bytes) -> None:
    kept = await keep(spill, body)
    assert isinstance(kept, BlobRef)
    assert kept.size_bytes == len(body)
    assert blobs.bodies == {kept.name: body}
    assert await spill.whole(kept) == body
    assert await collect(spill.stream(kept)) == body


async def test_keeping_again_gives_the_same_reference(blobs: FakeBlobs, spill: Spill) -> None:
    assert await keep(spill, LARGE) == await keep(spill, LARGE)
    assert len(blobs.bodies) == 1


async def test_without_a_store_everything_stays_inline() -> None:
    assert await keep(Spill(None, 10), LARGE) == LARGE


async def test_a_body_that_cannot_be_stored_is_not_kept(blobs: FakeBlobs, spill: Spill) -> None:
    blobs.fault = BlobsUnavailable()
    with pytest.raises(BlobsUnavailable):
        await keep(spill, LARGE)


async def test_the_threshold_may_change(spill: Spill) -> None:
    before = await keep(spill, LARGE)
    spill.threshold_bytes = len(LARGE)
    assert await keep(spill, LARGE) == LARGE
    assert await spill.whole(before) == LARGE


@pytest.mark.parametrize("stored", [None, b"", LARGE[:-1], LARGE[:-1] + b"!", LARGE + b"!"])
async def test_a_body_that_is_not_the_one_is_lost(blobs: FakeBlobs, spill: Spill, stored: bytes | None) -> None:
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


async def test_a_reference_without_a_store_says_what_is_missing(spill: Spill) -> None:
    kept = await keep(spill, LARGE)
    with pytest.raises(BlobLost, match=r"payloads\.url"):
        await Spill(None, 1000).whole(kept)
