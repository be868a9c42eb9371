"""Equal requests share one answer, and none waits for a request that brings no answer."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from toril.core.errors import StoreUnavailable
from toril.core.outcome import Answered, CutOff, Outcome, TimedOut
from toril.proxy.cache.memory_cache import MemoryCache
from toril.proxy.cache.singleflight import Singleflight
from toril.proxy.rules.caching import HIT, MISS
from toril.testing.clock import FakeClock
from toril.testing.outbound import answered

Ask = Callable[[float], Awaitable[Outcome]]


class Upstream:
    """Counts who asks; answers when told to."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.asked = 0
        self.may_answer = asyncio.Event()

    async def ask(self, timeout_s: float) -> Outcome:
        self.asked += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self.may_answer.wait()
        except TimeoutError:
            return TimedOut("answer", timeout_s)
        return self.outcome


def sharing() -> Singleflight:
    return Singleflight(MemoryCache(60.0, 10, lambda: 0.0), b"me")


def mark(outcome: Outcome) -> bytes:
    assert isinstance(outcome, Answered)
    return dict(outcome.headers)[b"X-Cache-Status"]


async def together(shared: Singleflight, upstream: Upstream, count: int) -> list[Outcome]:
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(shared.answer("k", upstream.ask, 10.0)) for _ in range(count)]
        await asyncio.sleep(0.01)
        upstream.may_answer.set()
    return [task.result() for task in waiting]


async def test_concurrent_equal_requests_reach_the_upstream_once(clock: FakeClock) -> None:
    upstream = Upstream(answered(200, b"x"))
    outcomes = await together(sharing(), upstream, 5)
    assert upstream.asked == 1
    assert sorted(mark(outcome) for outcome in outcomes) == [HIT[1]] * 4 + [MISS[1]]


async def test_an_answer_that_is_not_kept_is_shared_with_those_who_wait_and_no_others(clock: FakeClock) -> None:
    shared, upstream = sharing(), Upstream(answered(500))
    assert {mark(outcome) for outcome in await together(shared, upstream, 3)} == {MISS[1]}
    assert upstream.asked == 1
    await shared.answer("k", upstream.ask, 10.0)
    assert upstream.asked == 2


async def test_a_request_that_shared_a_failed_call_makes_its_own(clock: FakeClock) -> None:
    shared, upstream = sharing(), Upstream(CutOff("ECONNRESET", "", 0.0))
    outcomes = await together(shared, upstream, 3)
    assert upstream.asked == 3
    assert all(isinstance(outcome, CutOff) for outcome in outcomes)


async def test_a_cancelled_request_cancels_no_other(clock: FakeClock) -> None:
    shared, upstream = sharing(), Upstream(answered(200, b"x"))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(shared.answer("k", upstream.ask, 10.0))
        await asyncio.sleep(0.01)
        second = tasks.create_task(shared.answer("k", upstream.ask, 10.0))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        upstream.may_answer.set()
    assert mark(second.result()) == MISS[1]
    assert upstream.asked == 2


async def test_waiting_for_a_shared_call_counts_towards_the_requests_timeout(clock: FakeClock) -> None:
    shared, upstream = sharing(), Upstream(answered())
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(shared.answer("k", upstream.ask, 60.0))
        await asyncio.sleep(0.01)
        assert isinstance(await shared.answer("k", upstream.ask, 0.5), TimedOut)
        upstream.may_answer.set()
    assert mark(first.result()) == MISS[1]
    assert upstream.asked == 1


class Elsewhere(MemoryCache):
    """A cache in which another instance has claimed the key, until it is released."""

    def __init__(self) -> None:
        super().__init__(60.0, 10, lambda: 0.0)
        self.taken = True

    async def claim(self, key: str, who: bytes, for_s: float) -> bool:
        return not self.taken


async def test_an_answer_cached_by_another_instance_is_returned_to_waiting_callers(clock: FakeClock) -> None:
    cache, upstream = Elsewhere(), Upstream(answered(200, b"x"))
    brought = Singleflight(MemoryCache(60.0, 10, lambda: 0.0), b"other")
    upstream.may_answer.set()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(Singleflight(cache, b"me").answer("k", upstream.ask, 10.0))
        await asyncio.sleep(0.3)
        assert upstream.asked == 0
        await brought.answer("k", upstream.ask, 10.0)
        stored = await brought._cache.get("k")
        assert stored is not None
        await cache.put("k", stored)
    assert mark(waiting.result()) == HIT[1]
    assert upstream.asked == 1


async def test_a_claim_that_lapses_is_taken_over(clock: FakeClock) -> None:
    cache, upstream = Elsewhere(), Upstream(answered(200, b"x"))
    upstream.may_answer.set()
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(Singleflight(cache, b"me").answer("k", upstream.ask, 10.0))
        await asyncio.sleep(0.3)
        cache.taken = False
    assert mark(waiting.result()) == MISS[1]


async def test_a_cache_that_is_away_costs_no_request(clock: FakeClock) -> None:
    class Away(MemoryCache):
        async def get(self, key: str) -> bytes | None:
            raise StoreUnavailable

    upstream = Upstream(answered(200, b"x"))
    upstream.may_answer.set()
    outcome = await Singleflight(Away(60.0, 10, lambda: 0.0), b"me").answer("k", upstream.ask, 10.0)
    assert mark(outcome) == MISS[1]


@pytest.mark.parametrize("damaged", [b"", b"{}", b"\xff"])
async def test_a_damaged_entry_costs_no_request(clock: FakeClock, damaged: bytes) -> None:
    cache = MemoryCache(60.0, 10, lambda: 0.0)
    await cache.put("k", damaged)
    upstream = Upstream(answered(200, b"x"))
    upstream.may_answer.set()
    assert mark(await Singleflight(cache, b"me").answer("k", upstream.ask, 10.0)) == MISS[1]
