import asyncio

from toril.engine.next_look import GATE_PAUSE_S, NextLook
from toril.testing import FakeClock


class Looks:
    """A timer, and the times at which it fired."""

    def __init__(self) -> None:
        self.at_s: list[float] = []
        self.next = NextLook(self._look)

    def _look(self) -> None:
        assert not self.next.blocked, "what blocked it is over when it fires"
        self.at_s.append(round(asyncio.get_running_loop().time() - self._began, 2))

    def begin(self) -> None:
        self._began = asyncio.get_running_loop().time()


async def looks_after(looks: Looks) -> list[float]:
    await asyncio.sleep(100.0)
    return looks.at_s


async def test_the_earlier_of_two_planned_looks_counts(clock: FakeClock) -> None:
    looks = Looks()
    looks.begin()
    looks.next.plan(5.0, 1005.0)
    looks.next.plan(9.0, 1009.0)
    looks.next.plan(2.0, 1002.0)
    assert looks.next.job_at_s == 1002.0
    assert await looks_after(looks) == [2.0]


async def test_a_rate_limit_and_the_gate_are_told_apart(clock: FakeClock) -> None:
    looks = Looks()
    looks.begin()
    looks.next.block_for_gate()
    assert (looks.next.gated, looks.next.rate_limited) == (True, False)
    await asyncio.sleep(1.0)
    looks.next.block_for_rate_limit(5.0)
    assert (looks.next.gated, looks.next.rate_limited) == (False, True)
    assert await looks_after(looks) == [GATE_PAUSE_S, 6.0]


async def test_neither_the_gate_nor_a_delayed_job_moves_the_end_of_a_rate_limit(clock: FakeClock) -> None:
    looks = Looks()
    looks.begin()
    looks.next.block_for_rate_limit(5.0)
    looks.next.block_for_gate()
    looks.next.plan(1.0)
    assert await looks_after(looks) == [5.0]


async def test_a_rate_limit_that_is_found_while_gated_puts_the_look_off(clock: FakeClock) -> None:
    looks = Looks()
    looks.begin()
    looks.next.block_for_gate()
    looks.next.block_for_rate_limit(5.0)
    assert await looks_after(looks) == [5.0]


async def test_an_ended_timer_never_fires(clock: FakeClock) -> None:
    looks = Looks()
    looks.begin()
    looks.next.plan(1.0, 1001.0)
    assert looks.next.end()
    assert not looks.next.end()
    looks.next.plan(2.0)
    looks.next.block_for_rate_limit(3.0)
    looks.next.block_for_gate()
    assert await looks_after(looks) == []
