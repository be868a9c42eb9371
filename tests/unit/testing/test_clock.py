import asyncio
import time

import pytest

from toril.testing import FakeClock


async def test_an_hour_of_sleep_takes_no_time() -> None:
    clock = FakeClock(1000.0)
    began = time.monotonic()
    with clock.driving():
        await asyncio.sleep(3600)
    assert clock() == pytest.approx(4600.0)
    assert time.monotonic() - began < 1


async def test_timers_run_in_the_order_of_their_times() -> None:
    loop = asyncio.get_running_loop()
    ran: list[float] = []
    with FakeClock().driving():
        began = loop.time()
        for after_s in (5.0, 1.0, 3.0):
            loop.call_later(after_s, lambda: ran.append(round(loop.time() - began, 6)))
        await asyncio.sleep(10)
    assert ran == [1.0, 3.0, 5.0]


async def test_time_stands_still_while_there_is_something_to_do() -> None:
    clock = FakeClock()
    with clock.driving():
        asyncio.get_running_loop().call_later(0.001, lambda: None)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert clock.elapsed_s == 0


async def test_a_jump_makes_timers_due() -> None:
    clock = FakeClock()
    fired = asyncio.Event()
    with clock.driving():
        asyncio.get_running_loop().call_later(5, fired.set)
        clock.jump(5.0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert fired.is_set()


async def test_a_timeout_follows_the_clock() -> None:
    with FakeClock().driving(), pytest.raises(TimeoutError):
        async with asyncio.timeout(100):
            await asyncio.Event().wait()


async def test_after_the_block_the_loop_has_its_own_time_again() -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    with FakeClock().driving():
        await asyncio.sleep(1000)
    assert loop.time() - before < 10
