import pytest

from toril.core.blob import BlobRef, reference
from toril.core.errors import BlobLost, BlobsUnavailable
from toril.intake.spill import Spill
from toril.intake.switched_blobs import SwitchedBlobs
from toril.testing.blobs import FakeBlobs

BODY = b"x" * 100


async def kept(spill: Spill, job_id: str, body: bytes = BODY) -> BlobRef:
    ref = await spill.keep("deliveries", job_id, "request", body)
    assert isinstance(ref, BlobRef)
    return ref


async def streamed(spill: Spill, ref: BlobRef) -> bytes:
    return b"".join([piece async for piece in spill.stream(ref)])


async def test_what_is_in_the_store_of_before_is_still_read() -> None:
    before, now = FakeBlobs(lambda: 0.0), FakeBlobs(lambda: 0.0)
    blobs = SwitchedBlobs(before)
    spill = Spill(blobs, 10)
    old = await kept(spill, "one")
    blobs.switch(now)
    new = await kept(spill, "two")
    assert [await spill.whole(ref) for ref in (old, new)] == [BODY, BODY]
    assert [await streamed(spill, ref) for ref in (old, new)] == [BODY, BODY]
    assert {blob.name async for blob in blobs.list("deliveries")} == {old.name, new.name}
    assert {blob.name async for blob in now.list("deliveries")} == {new.name}


async def test_what_is_deleted_is_gone_from_all_of_them() -> None:
    before, now = FakeBlobs(lambda: 0.0), FakeBlobs(lambda: 0.0)
    blobs = SwitchedBlobs(before)
    spill = Spill(blobs, 10)
    old = await kept(spill, "one")
    blobs.switch(now)
    await blobs.delete([old.name])
    with pytest.raises(BlobLost):
        await spill.whole(old)
    with pytest.raises(BlobLost):
        await streamed(spill, old)


async def test_without_a_store_nothing_is_taken_and_what_there_was_is_still_read() -> None:
    blobs = SwitchedBlobs(FakeBlobs(lambda: 0.0))
    spill = Spill(blobs, 10)
    old = await kept(spill, "one")
    blobs.switch(None)
    assert not blobs.takes
    with pytest.raises(BlobsUnavailable):
        await blobs.put("deliveries/x", BODY)
    assert await spill.whole(old) == BODY
    blobs.switch(FakeBlobs(lambda: 0.0))
    assert await spill.whole(await kept(spill, "two")) == BODY


async def test_without_any_store_a_body_is_lost_and_says_where_it_was() -> None:
    blobs = SwitchedBlobs(None)
    ref = reference("deliveries", "one", "request", BODY)
    with pytest.raises(BlobLost, match=r"payloads\.url"):
        await blobs.get(ref.name)
    with pytest.raises(BlobLost, match=r"payloads\.url"):
        await streamed(Spill(blobs, 10), ref)
    assert [blob async for blob in blobs.list("")] == []
