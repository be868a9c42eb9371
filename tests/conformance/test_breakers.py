"""What every `Breakers` promises: over the fake, and in a real Valkey, which decides the same, event by event."""

import asyncio
import random
import time
from collections.abc import AsyncIterator

import pytest

from tests.conformance.bull.links import address_of, up
from tests.support.valkey import ValkeyProcess
from toril.adapters.redis_breakers import RedisBreakers
from toril.bull.connection import Link
from toril.core.breaker import Breaker, BreakerState, Go, Wait
from toril.core.ports.calls import Breakers
from toril.core.target import BreakerPolicy
from toril.testing import FakeBreakers, FakeClock

POLICY = BreakerPolicy(failures=3, window_s=30, open_for_s=15, half_open_probes=2)


@pytest.fixture
async def link(valkey: ValkeyProcess) -> AsyncIterator[Link]:
    async with up(address_of(valkey)) as link:
        yield link


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def prefix(queue: str) -> str:
    return queue


@pytest.fixture(params=["fake", "valkey"])
def breakers(request: pytest.FixtureRequest, clock: FakeClock, link: Link, prefix: str) -> Breakers:
    return FakeBreakers(clock) if request.param == "fake" else RedisBreakers(link.call, prefix, clock)


async def open_it(breakers: Breakers, target: str = "billing") -> Breaker:
    for _ in range(POLICY.failures):
        breaker = await breakers.failed(target, POLICY, None)
    return breaker


async def test_an_unknown_target_is_closed(breakers: Breakers) -> None:
    assert await breakers.admit("billing", POLICY, "p", 10) == Go()
    assert await breakers.read("billing", POLICY) == (Breaker(), 0)


async def test_failures_open_it_for_its_own_target_alone(breakers: Breakers, clock: FakeClock) -> None:
    breaker = await open_it(breakers)
    assert breaker.state is BreakerState.OPEN
    assert breaker.opened_at_s == pytest.approx(clock(), abs=1e-5)
    assert await breakers.admit("billing", POLICY, "p", 10) == Wait(pytest.approx(15, abs=1e-5))
    assert await breakers.admit("email", POLICY, "p", 10) == Go()
    assert (await breakers.read("billing", POLICY))[1] == 3


async def test_good_probes_close_it(breakers: Breakers, clock: FakeClock) -> None:
    await open_it(breakers)
    clock.jump(15.001)
    assert await breakers.admit("billing", POLICY, "p1", 10) == Go(probe=True)
    assert await breakers.admit("billing", POLICY, "p2", 10) == Go(probe=True, last=True)
    assert isinstance(await breakers.admit("billing", POLICY, "p3", 10), Wait)
    assert (await breakers.passed("billing", POLICY, "p2")).state is BreakerState.HALF_OPEN
    assert await breakers.passed("billing", POLICY, "p1") == Breaker()
    assert await breakers.admit("billing", POLICY, "p4", 10) == Go()


async def test_a_bad_probe_reopens_it(breakers: Breakers, clock: FakeClock) -> None:
    await open_it(breakers)
    clock.jump(15.001)
    await breakers.admit("billing", POLICY, "p1", 10)
    clock.jump(2)
    breaker = await breakers.failed("billing", POLICY, "p1")
    assert breaker.state is BreakerState.OPEN
    assert await breakers.admit("billing", POLICY, "p2", 10) == Wait(pytest.approx(15, abs=1e-5))


async def test_a_probe_that_leaves_makes_room(breakers: Breakers, clock: FakeClock) -> None:
    await open_it(breakers)
    clock.jump(15.001)
    for probe in ("p1", "p2"):
        await breakers.admit("billing", POLICY, probe, 10)
    await breakers.left("billing", POLICY, "p1")
    assert await breakers.admit("billing", POLICY, "p3", 10) == Go(probe=True, last=True)


async def test_of_many_who_ask_at_once_so_many_pass_as_there_are_places(breakers: Breakers, clock: FakeClock) -> None:
    await open_it(breakers)
    clock.jump(15.001)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(breakers.admit("billing", POLICY, f"p{n}", 10)) for n in range(50)]
    assert sum(isinstance(task.result(), Go) for task in asked) == POLICY.half_open_probes


@pytest.mark.parametrize("seed", range(20))
async def test_redis_decides_as_the_core_does(link: Link, clock: FakeClock, prefix: str, seed: int) -> None:
    chance = random.Random(seed)
    fake, real = FakeBreakers(clock), RedisBreakers(link.call, prefix, clock)
    policy = BreakerPolicy(
        failures=chance.randint(1, 4),
        window_s=chance.choice([1.0, 10.0]),
        open_for_s=chance.choice([1.0, 5.0]),
        half_open_probes=chance.randint(1, 3),
    )
    for _ in range(60):
        clock.jump(chance.choice([0.0, 0.125, 1.0, 3.0]) + 1e-3)
        event, probe = chance.choice(["admit", "admit", "failed", "passed", "left"]), f"p{chance.randint(0, 4)}"
        if event == "admit":
            ours = await fake.admit("billing", policy, probe, 4.0)
            theirs = await real.admit("billing", policy, probe, 4.0)
            if isinstance(ours, Wait):
                assert theirs == Wait(pytest.approx(ours.for_s, abs=1e-4))
            else:
                assert theirs == ours
        elif event == "failed":
            of = chance.choice([probe, None])
            same(await fake.failed("billing", policy, of), await real.failed("billing", policy, of))
        elif event == "passed":
            same(await fake.passed("billing", policy, probe), await real.passed("billing", policy, probe))
        else:
            await fake.left("billing", policy, probe)
            await real.left("billing", policy, probe)
        (ours_now, ours_count), (theirs_now, theirs_count) = (
            await fake.read("billing", policy),
            await real.read("billing", policy),
        )
        same(ours_now, theirs_now)
        assert ours_count == theirs_count


def same(ours: Breaker, theirs: Breaker) -> None:
    assert (ours.state, ours.passed) == (theirs.state, theirs.passed)
    assert ours.opened_at_s == pytest.approx(theirs.opened_at_s, abs=1e-4)
    assert list(ours.failures) == pytest.approx(list(theirs.failures), abs=1e-4)
    assert [probe.id for probe in ours.probes] == [probe.id for probe in theirs.probes]
    assert [probe.until_s for probe in ours.probes] == pytest.approx([p.until_s for p in theirs.probes], abs=1e-4)


async def test_redis_own_clock_counts_where_none_is_given(link: Link, prefix: str) -> None:
    policy = BreakerPolicy(failures=1, window_s=30, open_for_s=0.05, half_open_probes=1)
    breakers = RedisBreakers(link.call, prefix)
    breaker = await breakers.failed("billing", policy, None)
    assert breaker.opened_at_s == pytest.approx(time.time(), abs=5)
    await asyncio.sleep(0.06)
    assert await breakers.admit("billing", policy, "p", 10) == Go(probe=True, last=True)


async def test_a_breaker_without_failures_is_no_key(link: Link, prefix: str) -> None:
    breakers = RedisBreakers(link.call, prefix)
    policy = BreakerPolicy(failures=1, window_s=30, open_for_s=0.001, half_open_probes=1)
    await breakers.failed("billing", policy, None)
    assert await link.call("PTTL", f"toril:breaker:{prefix}:billing") > 0
    await asyncio.sleep(0.01)
    await breakers.admit("billing", policy, "p", 10)
    await breakers.passed("billing", policy, "p")
    assert await link.call("EXISTS", f"toril:breaker:{prefix}:billing") == 0
