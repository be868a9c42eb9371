"""What every `AnswerCache` does, and what `KeyBook` does."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable

import pytest

from tests.conformance.bull.links import address_of, up
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually
from toril.adapters.memory_cache import MemoryCache
from toril.adapters.redis_cache import RedisCache
from toril.adapters.redis_key_book import RedisKeyBook
from toril.core.errors import StoreError
from toril.core.ports.proxy import AnswerCache, KeyEntry
from toril.core.ports.shared import Command
from toril.engine.spilled_cache import SpilledCache
from toril.intake.spill import Spill
from toril.testing import FakeBlobs

Make = Callable[[float], AnswerCache]


@pytest.fixture
async def command(valkey: ValkeyProcess) -> AsyncIterator[Command]:
    async with up(address_of(valkey)) as link:
        yield link.call


@pytest.fixture(params=["memory", "redis", "spilled"])
def make(request: pytest.FixtureRequest, command: Command) -> Make:
    if request.param == "memory":
        return lambda ttl_s: MemoryCache(ttl_s, 100, time.monotonic)
    if request.param == "spilled":
        spill = Spill(FakeBlobs(time.time), 1)
        return lambda ttl_s: SpilledCache(MemoryCache(ttl_s, 100, time.monotonic), spill)
    return lambda ttl_s: RedisCache(command, f"{uuid.uuid4().hex}:", ttl_s)


async def test_what_is_put_is_got_until_it_is_put_anew(make: Make) -> None:
    cache = make(60.0)
    assert await cache.get("k") is None
    await cache.put("k", b"\x00one")
    assert await cache.get("k") == b"\x00one"
    await cache.put("k", b"two")
    assert await cache.get("k") == b"two"
    assert await cache.get("other") is None


async def test_what_is_put_is_gone_when_its_time_is_over(make: Make) -> None:
    cache = make(0.05)
    await cache.put("k", b"x")
    began = time.monotonic()
    while await cache.get("k") is not None:
        assert time.monotonic() - began < 10


async def test_who_has_a_claim_can_have_it_again_and_give_it_up(make: Make) -> None:
    cache = make(60.0)
    assert await cache.claim("k", b"me", 60.0)
    assert await cache.claim("k", b"me", 60.0)
    await cache.release("k", b"me")
    assert await cache.claim("k", b"other", 60.0)


async def test_in_redis_a_claim_keeps_others_out_until_it_lapses(command: Command) -> None:
    one, two = (RedisCache(command, "same-prefix:", 60.0) for _ in range(2))
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


async def test_a_key_stands_for_the_first_job_that_came_with_it(command: Command) -> None:
    book, name = RedisKeyBook(command, "bull", 60.0), uuid.uuid4().hex
    first = await book.claim(name, "job-1", "digest-1")
    assert first == KeyEntry("job-1", "digest-1", settled=False)
    assert await book.claim(name, "job-2", "digest-2") == first
    await book.settle(name, first)
    assert await book.claim(name, "job-3", "digest-1") == KeyEntry("job-1", "digest-1", settled=True)


async def test_a_key_is_taken_over_only_from_the_job_that_is_named(command: Command) -> None:
    book, name = RedisKeyBook(command, "bull", 60.0), uuid.uuid4().hex
    first = await book.claim(name, "job-1", "digest-1")
    await book.settle(name, first)
    dead = await book.claim(name, "job-2", "digest-2")
    assert dead == KeyEntry("job-1", "digest-1", settled=True)
    async with asyncio.TaskGroup() as tasks:
        claims = [tasks.create_task(book.claim(name, f"new-{n}", "digest-2", instead_of=dead)) for n in range(10)]
    (winner,) = {claim.result().job_id for claim in claims}
    assert winner.startswith("new-")
    # An entry that was claimed and not settled is another one than the settled one of the same job.
    assert (
        await book.claim(name, "job-3", "d", instead_of=KeyEntry(winner, "digest-2", settled=True))
    ).job_id == winner


async def test_a_late_settlement_does_not_take_the_key_back(command: Command) -> None:
    book, name = RedisKeyBook(command, "bull", 60.0), uuid.uuid4().hex
    late = await book.claim(name, "job-1", "digest-1")
    taken = await book.claim(name, "job-2", "digest-2", instead_of=late)
    await book.settle(name, late)
    assert await book.claim(name, "job-3", "digest-3") == taken
    await book.settle(name, taken)
    await book.settle(name, taken)
    assert await book.claim(name, "job-3", "digest-3") == KeyEntry("job-2", "digest-2", settled=True)


async def test_an_entry_says_how_old_it_is(command: Command) -> None:
    book, name = RedisKeyBook(command, "bull", 3600.0), uuid.uuid4().hex
    await book.claim(name, "job-1", "digest-1")
    await command("PEXPIRE", f"bull:toril:idempotency:{name}", 3_480_500)
    assert (await book.claim(name, "job-2", "digest-1")).age_s == 119


@pytest.mark.parametrize("held", [b"", b"job-1", b"x\r\nx-injected: 1 digest settled", b"\xff d settled", b"a b c"])
async def test_what_a_key_stands_for_is_refused_where_somebody_else_has_written_it(
    command: Command, held: bytes
) -> None:
    book, name = RedisKeyBook(command, "bull", 60.0), uuid.uuid4().hex
    await command("SET", f"bull:toril:idempotency:{name}", held)
    with pytest.raises(StoreError, match="cannot be read"):
        await book.claim(name, "job-2", "digest-2")


async def test_a_key_is_forgotten_when_its_time_is_over(command: Command) -> None:
    book, name = RedisKeyBook(command, "bull", 0.05), uuid.uuid4().hex
    await book.claim(name, "job-1", "digest-1")
    eventually(lambda: time.sleep(0.06) is None, timeout_s=10, what="the key's time")
    assert (await book.claim(name, "job-2", "digest-2")).job_id == "job-2"
