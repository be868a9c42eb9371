"""What every `AnswerCache` does, and what `IdempotencyStore` does."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from tests.conformance.bullmq.links import address_of, up
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril.core.errors import StoreError
from toril.payloads.payload_offload import PayloadOffload
from toril.proxy.cache.memory_cache import MemoryCache
from toril.proxy.cache.offloaded_cache import OffloadedCache
from toril.proxy.cache.redis_cache import RedisCache
from toril.proxy.idempotency_store import RedisIdempotencyStore
from toril.proxy.ports import AnswerCache, IdempotencyEntry
from toril.redis.links import Links
from toril.testing import FakeBlobs

Make = Callable[[float], AnswerCache]


@pytest.fixture
async def links(valkey: ValkeyProcess) -> AsyncIterator[Links]:
    async with up(address_of(valkey)) as link:
        yield link


@pytest.fixture(params=["memory", "redis", "spilled"])
def make(request: pytest.FixtureRequest, links: Links) -> Make:
    if request.param == "memory":
        return lambda ttl_s: MemoryCache(ttl_s, 100, time.monotonic)
    if request.param == "spilled":
        spill = PayloadOffload(FakeBlobs(time.time), 1)
        return lambda ttl_s: OffloadedCache(MemoryCache(ttl_s, 100, time.monotonic), spill)
    return lambda ttl_s: RedisCache(links, f"{uuid.uuid4().hex}:", ttl_s)


async def test_an_entry_is_returned_until_it_is_replaced(make: Make) -> None:
    cache = make(60.0)
    assert await cache.get("k") is None
    await cache.put("k", b"\x00one")
    assert await cache.get("k") == b"\x00one"
    await cache.put("k", b"two")
    assert await cache.get("k") == b"two"
    assert await cache.get("other") is None


async def test_an_entry_is_gone_when_its_time_is_over(make: Make) -> None:
    cache = make(0.05)
    await cache.put("k", b"x")
    began = time.monotonic()
    while await cache.get("k") is not None:
        assert time.monotonic() - began < 10


async def test_a_claimant_may_claim_again_and_release_its_claim(make: Make) -> None:
    cache = make(60.0)
    assert await cache.claim("k", b"me", 60.0)
    assert await cache.claim("k", b"me", 60.0)
    await cache.release("k", b"me")
    assert await cache.claim("k", b"other", 60.0)


async def test_in_redis_a_claim_keeps_others_out_until_it_lapses(links: Links) -> None:
    one, two = (RedisCache(links, "same-prefix:", 60.0) for _ in range(2))
    key = uuid.uuid4().hex
    assert await one.claim(key, b"me", 0.3)
    assert not await two.claim(key, b"other", 60.0)
    await two.release(key, b"other")
    assert not await two.claim(key, b"other", 60.0)
    began = time.monotonic()
    while not await two.claim(key, b"other", 60.0):
        assert time.monotonic() - began < 10


async def test_in_memory_the_least_recently_used_goes_first() -> None:
    cache = MemoryCache(60.0, 2, time.monotonic)
    for key in ("a", "b"):
        await cache.put(key, b"x")
    await cache.get("a")
    await cache.put("c", b"x")
    assert [await cache.get(key) for key in ("a", "b", "c")] == [b"x", None, b"x"]


async def test_in_memory_there_is_room_for_so_many_bytes() -> None:
    cache = MemoryCache(60.0, 100, time.monotonic, max_bytes=10)
    await cache.put("a", b"x" * 6)
    await cache.put("a", b"y" * 6)
    assert await cache.get("a") == b"y" * 6
    await cache.put("b", b"x" * 6)
    assert [await cache.get(key) for key in ("a", "b")] == [None, b"x" * 6]
    await cache.put("c", b"x" * 11)
    assert await cache.get("c") is None


async def test_a_key_stands_for_the_first_job_that_came_with_it(links: Links) -> None:
    book, name = RedisIdempotencyStore(links, "bull", 60.0), uuid.uuid4().hex
    first = await book.claim(name, "job-1", "digest-1")
    assert first == IdempotencyEntry("job-1", "digest-1", settled=False)
    assert await book.claim(name, "job-2", "digest-2") == first
    await book.settle(name, first)
    assert await book.claim(name, "job-3", "digest-1") == IdempotencyEntry("job-1", "digest-1", settled=True)


async def test_a_key_is_taken_over_only_from_the_job_that_is_named(links: Links) -> None:
    book, name = RedisIdempotencyStore(links, "bull", 60.0), uuid.uuid4().hex
    first = await book.claim(name, "job-1", "digest-1")
    await book.settle(name, first)
    dead = await book.claim(name, "job-2", "digest-2")
    assert dead == IdempotencyEntry("job-1", "digest-1", settled=True)
    async with asyncio.TaskGroup() as tasks:
        claims = [tasks.create_task(book.claim(name, f"new-{n}", "digest-2", instead_of=dead)) for n in range(10)]
    (winner,) = {claim.result().job_id for claim in claims}
    assert winner.startswith("new-")
    # An entry that was claimed and not settled is another one than the settled one of the same job.
    assert (
        await book.claim(name, "job-3", "d", instead_of=IdempotencyEntry(winner, "digest-2", settled=True))
    ).job_id == winner


async def test_a_late_settlement_does_not_take_the_key_back(links: Links) -> None:
    book, name = RedisIdempotencyStore(links, "bull", 60.0), uuid.uuid4().hex
    late = await book.claim(name, "job-1", "digest-1")
    taken = await book.claim(name, "job-2", "digest-2", instead_of=late)
    await book.settle(name, late)
    assert await book.claim(name, "job-3", "digest-3") == taken
    await book.settle(name, taken)
    await book.settle(name, taken)
    assert await book.claim(name, "job-3", "digest-3") == IdempotencyEntry("job-2", "digest-2", settled=True)


async def test_an_entry_says_how_old_it_is(links: Links) -> None:
    book, name = RedisIdempotencyStore(links, "bull", 3600.0), uuid.uuid4().hex
    await book.claim(name, "job-1", "digest-1")
    await links.of(b"").call("PEXPIRE", f"bull:toril:idempotency:{name}", 3_480_500)
    assert (await book.claim(name, "job-2", "digest-1")).age_s == 119


@pytest.mark.parametrize("held", [b"", b"job-1", b"x\r\nx-injected: 1 digest settled", b"\xff d settled", b"a b c"])
async def test_a_value_that_another_program_wrote_is_refused(links: Links, held: bytes) -> None:
    book, name = RedisIdempotencyStore(links, "bull", 60.0), uuid.uuid4().hex
    await links.of(b"").call("SET", f"bull:toril:idempotency:{name}", held)
    with pytest.raises(StoreError, match="cannot be read"):
        await book.claim(name, "job-2", "digest-2")


async def test_a_key_is_forgotten_when_its_time_is_over(links: Links) -> None:
    book, name = RedisIdempotencyStore(links, "bull", 0.05), uuid.uuid4().hex
    await book.claim(name, "job-1", "digest-1")
    eventually(lambda: time.sleep(0.06) is None, timeout_s=10, what="the key's time")
    assert (await book.claim(name, "job-2", "digest-2")).job_id == "job-2"
