"""What is too large for the cache behind it is in the blob store."""

import pytest

from toril.payloads.payload_offload import PayloadOffload
from toril.proxy.cache.memory_cache import MemoryCache
from toril.proxy.cache.offloaded_cache import OffloadedCache
from toril.testing import FakeBlobs, FakeClock


async def test_only_references_of_large_answers_are_in_the_cache() -> None:
    clock = FakeClock()
    blobs, small = FakeBlobs(clock), MemoryCache(60.0, 100, clock)
    cache = OffloadedCache(small, PayloadOffload(blobs, 10))
    await cache.put("a", b"x" * 10)
    assert await small.get("a") == b"x" * 10
    assert blobs.bodies == {}
    await cache.put("b", b"x" * 1000)
    assert len(await small.get("b") or b"") < 100
    assert list(blobs.bodies.values()) == [b"x" * 1000]
    assert await cache.get("b") == b"x" * 1000


async def test_an_answer_whose_body_cannot_be_had_is_not_kept() -> None:
    clock = FakeClock()
    blobs = FakeBlobs(clock)
    cache = OffloadedCache(MemoryCache(60.0, 100, clock), PayloadOffload(blobs, 10))
    await cache.put("a", b"x" * 1000)
    blobs.bodies.clear()
    assert await cache.get("a") is None


@pytest.mark.parametrize(
    "held",
    [b"blob:", b"blob:{}", b"blob:[1]", b'blob:{"name":"../../etc/passwd","size_bytes":3}', b"blob:OTHER"],
)
async def test_a_reference_written_by_another_program_is_a_cache_miss(held: bytes) -> None:
    clock = FakeClock()
    small = MemoryCache(60.0, 100, clock)
    cache = OffloadedCache(small, PayloadOffload(FakeBlobs(clock), 10))
    await cache.put("other", b"x" * 1000)
    other = await small.get("other")
    await small.put("a", other or b"" if held == b"blob:OTHER" else held)
    assert await cache.get("a") is None
