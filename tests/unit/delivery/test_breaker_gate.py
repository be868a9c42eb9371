"""The gate of a target, asked by several attempts at once."""

import asyncio
from collections import Counter

import pytest

from tests.unit.delivery.pipeline import SPEC
from tests.unit.engine.support import LOCK_S, patient
from toril.core.errors import StoreRefused
from toril.delivery.breaker_gate import BreakerGate
from toril.delivery.rules.breaker import AttemptAllowed, AttemptBlocked, BreakerDecision, FailedAttempt
from toril.delivery.rules.destination import Target
from toril.testing import FakeBreakers, FakeClock, FakeHolds


class AskedGate:
    """A gate and the breakers behind it, on fakes."""

    def __init__(self, clock: FakeClock) -> None:
        self.breakers = FakeBreakers(clock)
        self.gate = BreakerGate(Target(SPEC, clock), self.breakers, FakeHolds(), patient(LOCK_S), clock, 30.0)

    async def ask(self, count: int) -> list[BreakerDecision]:
        """Ask for so many attempts in one turn; return the answers."""
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(self.gate.admit(f"attempt {number}")) for number in range(count)]
        return [one.result() for one in asking]

    async def open(self) -> None:
        """Open the breaker, as another process sees it."""
        assert SPEC.breaker is not None
        for number in range(SPEC.breaker.failures):
            await self.breakers.failed(SPEC.name, SPEC.breaker, FailedAttempt(f"delivery {number}"))


@pytest.fixture
async def asked(clock: FakeClock) -> AskedGate:
    """A gate that knows its breaker as closed."""
    asked = AskedGate(clock)
    assert await asked.ask(1) == [AttemptAllowed()]
    asked.breakers.asked = 0
    return asked


async def test_while_the_breaker_is_closed_attempts_of_one_turn_share_a_question(asked: AskedGate) -> None:
    assert await asked.ask(10) == [AttemptAllowed()] * 10
    assert asked.breakers.asked == 1
    await asked.ask(10)
    assert asked.breakers.asked == 2, "each turn asks anew"


async def test_an_open_breaker_keeps_all_of_them_back(asked: AskedGate) -> None:
    await asked.open()
    assert {type(answer) for answer in await asked.ask(10)} == {AttemptBlocked}


async def test_of_attempts_that_ask_a_half_open_breaker_at_once_one_is_a_probe(
    asked: AskedGate, clock: FakeClock
) -> None:
    await asked.open()
    clock.jump(16)
    answers = Counter(type(answer).__name__ for answer in await asked.ask(10))
    assert answers == {"AttemptAllowed": 1, "AttemptBlocked": 9}
    assert {probe.id for probe in asked.breakers.breakers[SPEC.name].probes} == {"attempt 0"}


async def test_an_attempt_whose_question_was_broken_off_asks_for_itself(asked: AskedGate) -> None:
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(asked.gate.admit(f"attempt {number}")) for number in range(3)]
        await asyncio.sleep(0)
        asking[0].cancel()
    assert [one.result() for one in asking[1:]] == [AttemptAllowed()] * 2


async def test_each_learns_of_a_breaker_that_cannot_be_asked(asked: AskedGate) -> None:
    asked.breakers.fault = StoreRefused("NOPERM")
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(failing(asked.gate, f"attempt {number}")) for number in range(3)]
    assert [one.result() for one in asking] == ["NOPERM"] * 3


async def failing(gate: BreakerGate, name: str) -> str:
    with pytest.raises(StoreRefused) as caught:
        await gate.admit(name)
    return caught.value.message
