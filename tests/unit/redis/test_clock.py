"""The clock that the fleet shares: Redis' time, read without asking Redis."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from toril.core.errors import StoreTimeout
from toril.redis.clock import RedisClock

AT_S = 1_700_000_000.0


class Machine:
    """A machine whose time is wrong, and a Redis whose time is right. An answer takes `there_s` and `back_s`."""

    def __init__(self, skew_s: float = 0.0) -> None:
        self.true_s = AT_S
        self.skew_s = skew_s
        self.clock = RedisClock(lambda: self.true_s + self.skew_s, lambda: self.true_s - AT_S + 7.0)

    def asked(
        self, there_s: float = 0.0, back_s: float = 0.0, redis_ahead_s: float = 0.0
    ) -> Callable[[], Awaitable[Any]]:
        async def ask() -> list[bytes]:
            self.true_s += there_s
            told_us = round((self.true_s + redis_ahead_s) * 1e6)
            self.true_s += back_s
            return [b"%d" % (told_us // 1_000_000), b"%d" % (told_us % 1_000_000)]

        return ask


@pytest.mark.parametrize("skew_s", [3600.0, -3600.0, 0.0])
async def test_the_clock_follows_redis_whatever_the_machines_time(skew_s: float) -> None:
    machine = Machine(skew_s)
    assert (machine.clock(), machine.clock.measured) == (AT_S + skew_s, False)
    await machine.clock.measure(machine.asked())
    assert machine.clock() == pytest.approx(machine.true_s)
    machine.true_s += 100
    machine.skew_s += 50  # the machine's clock is set
    assert machine.clock() == pytest.approx(machine.true_s)
    assert machine.clock.measured


async def test_the_clocks_error_is_at_most_half_a_round_trip_and_a_quicker_one_corrects_it() -> None:
    machine = Machine()
    await machine.clock.measure(machine.asked(there_s=0.0, back_s=0.4))
    assert abs(machine.clock() - machine.true_s) == pytest.approx(0.2, abs=0.001)
    await machine.clock.measure(machine.asked(0.001, 0.001))
    assert machine.clock() == pytest.approx(machine.true_s, abs=0.003)


async def test_of_the_first_answers_the_quickest_counts() -> None:
    machine = Machine()
    ways = [(0.0, 0.4), (0.3, 0.0), (0.001, 0.001), (0.0, 0.2), (0.1, 0.0)]
    asks = [machine.asked(there_s, back_s) for there_s, back_s in ways]

    async def ask() -> Any:
        return await asks.pop(0)()

    await machine.clock.measure(ask)
    assert machine.clock() == pytest.approx(machine.true_s, abs=0.001)
    assert asks == []


async def test_the_clock_runs_evenly_while_no_answer_contradicts_it() -> None:
    machine = Machine()
    await machine.clock.measure(machine.asked(0.001, 0.001))
    before = machine.clock() - machine.true_s
    for there_s, back_s in ((0.0, 0.3), (0.3, 0.0), (0.1, 0.1), (2.0, 0.0)):
        await machine.clock.measure(machine.asked(there_s, back_s))
        assert machine.clock() - machine.true_s == pytest.approx(before, abs=0.001)


async def test_another_redis_brings_its_own_time() -> None:
    machine = Machine()
    await machine.clock.measure(machine.asked())
    await machine.clock.measure(machine.asked(redis_ahead_s=-30.0))
    assert machine.clock() == pytest.approx(machine.true_s - 30.0)


async def test_a_machine_with_a_wrong_clock_is_logged_once() -> None:
    machine = Machine(3600.0)
    with capture_logs() as logs:
        for ahead_s in (0.0, 1.0, 2.0):
            await machine.clock.measure(machine.asked(redis_ahead_s=ahead_s))
    ((event, ahead),) = [(line["event"], line["ahead_of_redis_s"]) for line in logs]
    assert (event, ahead) == ("clock.skewed", pytest.approx(3600.0))


async def test_the_clock_is_unchanged_while_redis_does_not_answer() -> None:
    machine = Machine(5.0)

    async def silent() -> Any:
        raise StoreTimeout

    with pytest.raises(StoreTimeout):
        await machine.clock.measure(silent)
    assert not machine.clock.measured
