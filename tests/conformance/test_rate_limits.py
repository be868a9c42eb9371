"""What every `RateLimits` promises: over the fake, and on a real Valkey."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import pytest

from tests.conformance.bullmq.links import PATIENT, address_of, up
from tests.conformance.holding import held
from tests.support.valkey import ValkeyProcess
from toril.core.access import RateLimit
from toril.core.errors import StoreError
from toril.core.ports import RateLimits
from toril.redis.connection import Link
from toril.testing import FakeClock, FakeRates
from toril.web.redis_rates import RedisRates


class Place(Protocol):
    """Limits, and a way to let time pass."""

    rates: RateLimits

    async def pass_time(self, seconds: float) -> None:
        """At least so long."""
        ...


class FakePlace:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.rates: RateLimits = FakeRates(self.clock)

    async def pass_time(self, seconds: float) -> None:
        self.clock.jump(seconds)


class RedisPlace:
    def __init__(self, link: Link) -> None:
        self.link = link
        self.rates: RateLimits = RedisRates(link)

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds + 0.005)


@asynccontextmanager
async def on_valkey(valkey: ValkeyProcess) -> AsyncIterator[RedisPlace]:
    async with up(address_of(valkey), PATIENT) as link:
        yield RedisPlace(link)


@pytest.fixture
async def redis_place(valkey: ValkeyProcess) -> AsyncIterator[RedisPlace]:
    valkey.client().flushall()
    async for made in held(on_valkey(valkey)):
        yield made


@pytest.fixture(params=["fake", "valkey"])
async def place(request: pytest.FixtureRequest, valkey: ValkeyProcess) -> AsyncIterator[Place]:
    if request.param == "fake":
        yield FakePlace()
        return
    valkey.client().flushall()
    async for made in held(on_valkey(valkey)):
        yield made


async def passed(spend: Callable[[], Awaitable[float]], tries: int) -> int:
    return [await spend() for _ in range(tries)].count(0)


@pytest.mark.parametrize("most", [1, 3, 7, 100])
async def test_a_burst_up_to_the_limit_passes_at_once(place: Place, most: int) -> None:
    limit = RateLimit(most, 3600.0)
    assert await passed(lambda: place.rates.spend("shop", limit), most + 5) == most


async def test_a_refused_caller_is_told_when_to_come_back_and_passes_then(place: Place) -> None:
    limit = RateLimit(2, 1.0)
    assert await passed(lambda: place.rates.spend("shop", limit), 2) == 2
    wait_s = await place.rates.spend("shop", limit)
    assert 0 < wait_s <= 0.5
    await place.pass_time(wait_s)
    assert await place.rates.spend("shop", limit) == 0
    assert await place.rates.spend("shop", limit) > 0, "one interval frees one request, not all"


async def test_refused_requests_are_not_counted(place: Place) -> None:
    limit = RateLimit(1, 1.0)
    assert await place.rates.spend("shop", limit) == 0
    waits = [await place.rates.spend("shop", limit) for _ in range(20)]
    assert min(waits) > 0
    assert max(waits) <= 1.0
    await place.pass_time(1.0)
    assert await place.rates.spend("shop", limit) == 0


async def test_after_a_pause_the_whole_limit_is_free_again_and_no_more(place: Place) -> None:
    limit = RateLimit(5, 0.2)
    await passed(lambda: place.rates.spend("shop", limit), 5)
    await place.pass_time(0.5)
    began = time.monotonic()
    found = await passed(lambda: place.rates.spend("shop", limit), 10)
    # What becomes free while the ten are asked for is theirs too.
    assert 5 <= found <= 5 + (time.monotonic() - began) / 0.04 + 1


async def test_each_caller_name_is_counted_separately(place: Place) -> None:
    limit = RateLimit(1, 3600.0)
    assert [await place.rates.spend(name, limit) for name in ("a", "b", "c")] == [0, 0, 0]
    assert await place.rates.spend("b", limit) > 0


async def test_a_shorter_limit_holds_at_once_after_a_longer_one(place: Place) -> None:
    long = RateLimit(1, 3600.0)
    assert await place.rates.spend("shop", long) == 0
    assert await place.rates.spend("shop", long) > 3000
    short = RateLimit(10, 0.1)
    wait_s = await place.rates.spend("shop", short)
    assert 0 < wait_s <= 0.0101
    await place.pass_time(wait_s)
    assert await place.rates.spend("shop", short) == 0


async def test_concurrent_requests_are_counted_together(redis_place: RedisPlace, valkey: ValkeyProcess) -> None:
    limit = RateLimit(10, 3600.0)
    async with up(address_of(valkey)) as other:
        both = [redis_place.rates, RedisRates(other)] * 25
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(rates.spend("shop", limit)) for rates in both]
    assert [task.result() for task in asked].count(0) == 10


async def test_a_rate_limit_leaves_one_key_that_expires(redis_place: RedisPlace, valkey: ValkeyProcess) -> None:
    await redis_place.rates.spend("shop", RateLimit(100, 10.0))
    store = valkey.client()
    assert store.keys("toril:rate*") == ["toril:rate:shop"]
    assert 0 < store.pttl("toril:rate:shop") <= 101


async def test_a_script_that_redis_has_forgotten_is_sent_again(redis_place: RedisPlace, valkey: ValkeyProcess) -> None:
    store = valkey.client()
    for _ in range(2):
        store.script_flush()
        assert await redis_place.rates.spend("shop", RateLimit(2, 3600.0)) == 0
    assert await redis_place.rates.spend("shop", RateLimit(2, 3600.0)) > 0


async def test_a_request_costs_one_command(redis_place: RedisPlace, valkey: ValkeyProcess) -> None:
    limit = RateLimit(1000, 1.0)
    await redis_place.rates.spend("shop", limit)
    store = valkey.client()
    store.config_resetstat()
    for _ in range(10):
        await redis_place.rates.spend("shop", limit)
    assert store.info("commandstats")["cmdstat_evalsha"]["calls"] == 10
    assert "cmdstat_eval" not in store.info("commandstats")


async def test_a_key_of_another_type_is_an_error_and_lets_no_request_pass(
    redis_place: RedisPlace, valkey: ValkeyProcess
) -> None:
    valkey.client().lpush("toril:rate:shop", "x")
    with pytest.raises(StoreError):
        await redis_place.rates.spend("shop", RateLimit(1, 1.0))
