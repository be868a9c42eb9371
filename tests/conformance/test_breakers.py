"""What every `Breakers` promises: over the fake, in a real PostgreSQL, and in a real Valkey, which decides
the same, event by event."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.conformance.bullmq.links import address_of, up
from tests.conformance.holding import held as held_open
from tests.conformance.postgres_queues import opened
from tests.support.valkey import ValkeyProcess
from toril.delivery.ports import Breakers
from toril.delivery.postgres_queue.breakers import PostgresBreakers
from toril.delivery.redis_breakers import RedisBreakers
from toril.delivery.rules.breaker import (
    AttemptAllowed,
    AttemptBlocked,
    Breaker,
    BreakerDecision,
    BreakerState,
    FailedAttempt,
    Successes,
    admit,
    failed,
    held,
    left,
    passed,
    succeeded,
)
from toril.delivery.rules.target import BreakerPolicy
from toril.redis.connection import Link
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


@asynccontextmanager
async def in_postgres(url: str, clock: FakeClock) -> AsyncIterator[PostgresBreakers]:
    async with opened(url) as database, asyncio.TaskGroup() as tasks:
        breakers = PostgresBreakers(database, clock)
        running = tasks.create_task(breakers.run())
        yield breakers
        running.cancel()


@pytest.fixture(params=["fake", "valkey", "postgres"])
async def breakers(
    request: pytest.FixtureRequest, clock: FakeClock, link: Link, prefix: str
) -> AsyncIterator[Breakers]:
    if request.param == "postgres":
        async for made in held_open(in_postgres(request.getfixturevalue("postgres").database(), clock)):
            yield made
        return
    yield FakeBreakers(clock) if request.param == "fake" else RedisBreakers(link, prefix, clock)


async def open_it(breakers: Breakers, target: str = "billing") -> Breaker:
    for number in range(POLICY.failures):
        breaker = await breakers.failed(target, POLICY, FailedAttempt(str(number)))
    return breaker


async def test_an_unknown_target_is_closed(breakers: Breakers) -> None:
    assert await breakers.admit("billing", POLICY, "p", 10) == AttemptAllowed()
    assert await breakers.read("billing") == Breaker()


async def test_failures_open_the_breaker_of_their_target_only(breakers: Breakers, clock: FakeClock) -> None:
    breaker = await open_it(breakers)
    assert breaker.state is BreakerState.OPEN
    assert breaker.opened_at_s == pytest.approx(clock(), abs=1e-5)
    assert await breakers.admit("billing", POLICY, "p", 10) == AttemptBlocked(pytest.approx(15, abs=1e-5))
    assert await breakers.admit("email", POLICY, "p", 10) == AttemptAllowed()
    assert (await breakers.read("billing")).counted == 3


async def test_successful_probes_close_the_breaker(breakers: Breakers, clock: FakeClock) -> None:
    await open_it(breakers)
    clock.jump(15.001)
    assert await breakers.admit("billing", POLICY, "p1", 10) == AttemptAllowed(probe=True)
    assert await breakers.admit("billing", POLICY, "p2", 10) == AttemptAllowed(probe=True, last=True)
    assert isinstance(await breakers.admit("billing", POLICY, "p3", 10), AttemptBlocked)
    assert (await breakers.passed("billing", POLICY, "p2")).state is BreakerState.HALF_OPEN
    assert await breakers.passed("billing", POLICY, "p1") == Breaker()
    assert await breakers.admit("billing", POLICY, "p4", 10) == AttemptAllowed()


async def test_a_failed_probe_reopens_the_breaker(breakers: Breakers, clock: FakeClock) -> None:
    await open_it(breakers)
    clock.jump(15.001)
    await breakers.admit("billing", POLICY, "p1", 10)
    clock.jump(2)
    breaker = await breakers.failed("billing", POLICY, FailedAttempt("1", "p1"))
    assert breaker.state is BreakerState.OPEN
    assert await breakers.admit("billing", POLICY, "p2", 10) == AttemptBlocked(pytest.approx(15, abs=1e-5))


async def test_an_aborted_probe_frees_its_place(breakers: Breakers, clock: FakeClock) -> None:
    await open_it(breakers)
    clock.jump(15.001)
    for probe in ("p1", "p2"):
        await breakers.admit("billing", POLICY, probe, 10)
    await breakers.left("billing", POLICY, "p1")
    assert await breakers.admit("billing", POLICY, "p3", 10) == AttemptAllowed(probe=True, last=True)


async def test_of_many_concurrent_attempts_only_as_many_pass_as_there_are_places(
    breakers: Breakers, clock: FakeClock
) -> None:
    await open_it(breakers)
    clock.jump(15.001)
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(breakers.admit("billing", POLICY, f"p{n}", 10)) for n in range(50)]
    assert sum(isinstance(task.result(), AttemptAllowed) for task in asked) == POLICY.half_open_probes


async def test_successes_end_a_row_and_are_counted_for_the_rate(breakers: Breakers) -> None:
    await breakers.failed("billing", POLICY, FailedAttempt("1"))
    breaker = await breakers.failed("billing", POLICY, FailedAttempt("2"))
    assert breaker.counted == 2
    breaker = await breakers.succeeded("billing", POLICY, Successes(7))
    assert (breaker.counted, [(one.attempts, one.failures) for one in breaker.slices]) == (0, [(9, 2)])
    assert await breakers.admit("billing", POLICY, "p", 10, Successes(3)) == AttemptAllowed()
    breaker = await breakers.failed("billing", POLICY, FailedAttempt("3"), Successes(1))
    assert (breaker.counted, [(one.attempts, one.failures) for one in breaker.slices]) == (1, [(14, 3)])


async def test_a_hold_is_kept_until_it_ends_or_is_ended(breakers: Breakers, clock: FakeClock) -> None:
    assert (await breakers.hold("billing", 60)).held_until_s == pytest.approx(clock() + 60, abs=1e-5)
    await breakers.hold("billing", 5)
    for policy in (POLICY, None):
        assert await breakers.admit("billing", policy, "p", 10) == AttemptBlocked(pytest.approx(60, abs=1e-5))
    assert await breakers.admit("email", POLICY, "p", 10) == AttemptAllowed()
    assert await breakers.release("billing")
    assert not await breakers.release("billing")
    assert await breakers.admit("billing", POLICY, "p", 10) == AttemptAllowed()
    breaker = await breakers.failed("billing", None, FailedAttempt("1", hold_s=5))
    assert breaker.counted == 0
    clock.jump(5.001)
    assert await breakers.admit("billing", POLICY, "p", 10) == AttemptAllowed()
    assert not await breakers.release("billing"), "it was over"


HISTORIES = 3000
AT_ONCE = 60
STEPS = 25


class Clock:
    """A clock whose times both sides hold without rounding: 1/64 s is a whole number of microseconds."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s

    def go_on(self, chance: random.Random) -> None:
        self.now_s += chance.choice([0, 0, 1, 8, 64, 65, 128, 320, 640]) / 64


def some_policy(chance: random.Random) -> BreakerPolicy:
    return BreakerPolicy(
        failures=chance.choice([1, 2, 3, 4, 50]),
        failure_rate=chance.choice([0.25, 0.5, 1.0]),
        min_attempts=chance.choice([3, 6, 1000]),
        window_s=chance.choice([1.0, 2.0, 10.0]),
        open_for_s=chance.choice([1.0, 5.0]),
        half_open_probes=chance.randint(1, 3),
    )


@pytest.mark.asyncio(
    loop_factories=["uvloop"]
)  # what a script decides does not depend on the loop, and this takes long
async def test_redis_decides_as_the_rules_do_in_thousands_of_histories(link: Link, prefix: str) -> None:
    seen: Counter[str] = Counter()
    for first in range(0, HISTORIES, AT_ONCE):
        async with asyncio.TaskGroup() as tasks:
            for seed in range(first, first + AT_ONCE):
                tasks.create_task(compare(link, prefix, seed, seen))
    # It compares nothing if the histories do not get into every state and through every decision.
    assert (
        min(
            seen[what]
            for what in ("closed", "open", "half_open", "allowed", "probe", "last probe", "blocked", "by rate")
        )
        > 500
    )


async def compare(link: Link, prefix: str, seed: int, seen: Counter[str]) -> None:
    """Take a new breaker through a history, in Redis and by the rules; instances may differ in their policy."""
    chance, clock, target = random.Random(seed), Clock(), f"target-{seed}"
    real = RedisBreakers(link, prefix, clock)
    breaker, policies = Breaker(), [some_policy(chance)]
    if chance.random() < 0.3:
        policies.append(some_policy(chance))
    for _ in range(STEPS):
        clock.go_on(chance)
        policy, probe = chance.choice(policies), f"p{chance.randint(0, 4)}"
        successes = Successes(chance.choice([0, 0, 1, 3]), chance.choice([0.0, 1.0]))
        given = None if chance.random() < 0.02 else policy
        if given is not None:
            after = succeeded(breaker, policy, clock(), successes)
        match chance.choice(["admit", "admit", "failed", "failed", "failed", "succeeded", "passed", "left", "hold"]):
            case "admit":
                breaker, decision = admit(breaker if given is None else after, given, clock(), probe, 4.0)
                assert await real.admit(target, given, probe, 4.0, successes) == decision, seed
                seen[decided(decision)] += 1
            case "failed":
                before = breaker.state
                of = FailedAttempt(
                    f"d{chance.randint(0, 9)}", chance.choice([probe, None]), chance.choice([0.0] * 9 + [1.5])
                )
                breaker = failed(breaker if given is None else after, given, clock(), of)
                assert await real.failed(target, given, of, successes) == breaker, seed
                seen["by rate"] += breaker.state is not before and breaker.counted < policy.failures
            case "succeeded":
                breaker = succeeded(breaker, policy, clock(), successes)
                assert await real.succeeded(target, policy, successes) == breaker, seed
            case "passed":
                breaker = passed(breaker, policy, probe)
                assert await real.passed(target, policy, probe) == breaker, seed
            case "left":
                breaker = left(breaker, probe)
                await real.left(target, policy, probe)
            case "hold" if chance.random() < 0.2:
                breaker = held(breaker, clock(), 1.0)
                assert await real.hold(target, 1.0) == breaker, seed
        assert await real.read(target) == breaker, seed
        seen[breaker.state] += 1


def decided(decision: BreakerDecision) -> str:
    match decision:
        case AttemptBlocked():
            return "blocked"
        case AttemptAllowed(probe=False):
            return "allowed"
        case AttemptAllowed(last=True):
            return "last probe"
        case AttemptAllowed():
            return "probe"


async def test_without_a_clock_the_clock_of_redis_counts(link: Link, prefix: str) -> None:
    policy = BreakerPolicy(failures=1, window_s=30, open_for_s=0.05, half_open_probes=1)
    breakers = RedisBreakers(link, prefix)
    breaker = await breakers.failed("billing", policy, FailedAttempt("1"))
    assert breaker.opened_at_s == pytest.approx(time.time(), abs=5)
    await asyncio.sleep(0.06)
    assert await breakers.admit("billing", policy, "p", 10) == AttemptAllowed(probe=True, last=True)


async def test_a_closed_breaker_without_failures_has_no_key(link: Link, prefix: str) -> None:
    breakers = RedisBreakers(link, prefix)
    policy = BreakerPolicy(failures=1, window_s=30, open_for_s=0.001, half_open_probes=1)
    await breakers.failed("billing", policy, FailedAttempt("1"))
    assert await link.call("PTTL", f"toril:breaker:{prefix}:billing") > 0
    await asyncio.sleep(0.01)
    await breakers.admit("billing", policy, "p", 10)
    await breakers.passed("billing", policy, "p")
    assert await link.call("EXISTS", f"toril:breaker:{prefix}:billing") == 0
