import pytest

from toril.core.blob import BlobRef, reference
from toril.core.errors import BlobLost, BlobsUnavailable
from toril.payloads.payload_offload import PayloadOffload
from toril.payloads.switched_blobs import SwitchedBlobs
from toril.testing.blobs import FakeBlobs

BODY = b"x" * 100


async def kept(spill: PayloadOffload, job_id: str, body: bytes = BODY) -> BlobRef:
    ref = await spill.keep("deliveries", job_id, "request", body)
    assert isinstance(ref, BlobRef)
    return ref


async def streamed(spill: PayloadOffload, ref: BlobRef) -> bytes:
    return b"".join([piece async for piece in spill.stream(ref)])


async def test_bodies_in_the_former_store_are_still_read() -> None:
    before, now = FakeBlobs(lambda: 0.0), FakeBlobs(lambda: 0.0)
    blobs = SwitchedBlobs(before)
    spill = PayloadOffload(blobs, 10)
    old = await kept(spill, "one")
    blobs.switch(now)
    new = await kept(spill, "two")
    assert [await spill.whole(ref) for ref in (old, new)] == [BODY, BODY]
    assert [await streamed(spill, ref) for ref in (old, new)] == [BODY, BODY]
    assert {blob.name async for blob in blobs.list("deliveries")} == {old.name, new.name}
    assert {blob.name async for blob in now.list("deliveries")} == {new.name}


async def test_a_deleted_body_is_removed_from_all_stores() -> None:
    before, now = FakeBlobs(lambda: 0.0), FakeBlobs(lambda: 0.0)
    blobs = SwitchedBlobs(before)
    spill = PayloadOffload(blobs, 10)
    old = await kept(spill, "one")
    blobs.switch(now)
    await blobs.delete([old.name])
    with pytest.raises(BlobLost):
        await spill.whole(old)
    with pytest.raises(BlobLost):
        await streamed(spill, old)


async def test_without_a_current_store_bodies_are_refused_and_former_ones_still_read() -> None:
    blobs = SwitchedBlobs(FakeBlobs(lambda: 0.0))
    spill = PayloadOffload(blobs, 10)
    old = await kept(spill, "one")
    blobs.switch(None)
    assert not blobs.takes
    with pytest.raises(BlobsUnavailable):
        await blobs.put("deliveries/x", BODY)
    assert await spill.whole(old) == BODY
    blobs.switch(FakeBlobs(lambda: 0.0))
    assert await spill.whole(await kept(spill, "two")) == BODY


async def test_without_any_store_a_reference_says_what_is_missing() -> None:
    blobs = SwitchedBlobs(None)
    ref = reference("deliveries", "one", "request", BODY)
    with pytest.raises(BlobLost, match=r"payloads\.url"):
        await blobs.get(ref.name)
    with pytest.raises(BlobLost, match=r"payloads\.url"):
        await streamed(PayloadOffload(blobs, 10), ref)
    assert [blob async for blob in blobs.list("")] == []
