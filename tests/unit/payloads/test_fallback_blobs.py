"""Bodies go to the store of now, or to the other one; they are found in both."""

import pytest

from toril.core.errors import BlobLost, BlobsUnavailable
from toril.payloads.fallback_blobs import FallbackBlobs
from toril.payloads.switched_blobs import SwitchedBlobs
from toril.testing import FakeBlobs, FakeClock


async def streamed(blobs: FallbackBlobs, name: str) -> bytes:
    return b"".join([piece async for piece in blobs.stream(name)])


async def test_a_body_goes_to_the_store_that_accepts_it_and_is_found_in_either() -> None:
    now, other = FakeBlobs(FakeClock()), FakeBlobs(FakeClock())
    switched = SwitchedBlobs(None)
    blobs = FallbackBlobs(switched, other)
    await blobs.put("r/1/a", b"one")
    switched.switch(now)
    await blobs.put("r/2/a", b"two")
    assert (list(now.bodies), list(other.bodies)) == (["r/2/a"], ["r/1/a"])
    assert [await blobs.get(name) for name in ("r/1/a", "r/2/a")] == [b"one", b"two"]
    assert [await streamed(blobs, name) for name in ("r/1/a", "r/2/a")] == [b"one", b"two"]
    assert {blob.name async for blob in blobs.list("r")} == {"r/1/a", "r/2/a"}
    switched.switch(None)
    await blobs.put("r/3/a", b"three")
    assert "r/3/a" in other.bodies
    await blobs.delete(["r/1/a", "r/2/a", "r/3/a"])
    assert (now.bodies, other.bodies) == ({}, {})


async def test_bodies_in_the_fallback_are_found_while_the_configured_store_is_away() -> None:
    now, other = FakeBlobs(FakeClock()), FakeBlobs(FakeClock())
    blobs = FallbackBlobs(SwitchedBlobs(now), other)
    await other.put("r/1/a", b"one")
    now.fault = BlobsUnavailable("away")
    assert await blobs.get("r/1/a") == b"one"
    assert await streamed(blobs, "r/1/a") == b"one"
    for call in (blobs.get, lambda name: streamed(blobs, name)):
        with pytest.raises(BlobsUnavailable, match="away"):
            await call("r/2/a")


async def test_a_missing_body_is_reported_by_the_store_that_should_have_it() -> None:
    class Elsewhere(FakeBlobs):
        async def get(self, name: str) -> bytes:
            raise BlobLost("not in the folder")

    other = Elsewhere(FakeClock())
    for store, said in ((None, "not in the folder"), (FakeBlobs(FakeClock()), "There is no r/1/a")):
        blobs = FallbackBlobs(SwitchedBlobs(store), other)
        for call in (blobs.get, lambda name, blobs=blobs: streamed(blobs, name)):
            with pytest.raises(BlobLost, match=said):
                await call("r/1/a")
