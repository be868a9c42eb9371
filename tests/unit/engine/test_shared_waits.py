import asyncio
from collections.abc import Callable

import pytest

from tests.unit.engine.support import turns
from toril.engine.shared_waits import SharedWaits
from toril.testing import FakeMarkerWaits


class Crowd:
    """Waiters with names, and who of them was woken with what."""

    def __init__(self) -> None:
        self.real = FakeMarkerWaits()
        self.waits = SharedWaits(self.real)
        self.woken: list[tuple[str, float]] = []
        self._wakes: dict[str, Callable[[float], None]] = {}

    def watch(self, *names: str, queue: str = "orders") -> None:
        for name in names:
            wake = self._wakes.setdefault(name, lambda at_s, name=name: self.woken.append((name, at_s)))
            self.waits.watch(queue, wake)

    def unwatch(self, name: str, queue: str = "orders") -> None:
        self.waits.unwatch(queue, self._wakes[name])


@pytest.fixture
async def crowd() -> Crowd:
    return Crowd()


async def test_one_marker_wakes_the_one_who_has_waited_longest(crowd: Crowd) -> None:
    crowd.watch("a", "b", "c")
    crowd.real.mark("orders")
    await turns()
    assert crowd.woken == [("a", 0.0)]
    crowd.watch("a")
    for _ in range(3):
        crowd.real.mark("orders")
        await turns()
    assert [name for name, _ in crowd.woken] == ["a", "b", "c", "a"]
    assert crowd.real.watched == set()


async def test_queues_are_apart(crowd: Crowd) -> None:
    crowd.watch("a")
    crowd.watch("b", queue="mails")
    crowd.real.mark("mails", 7.0)
    await turns()
    assert crowd.woken == [("b", 7.0)]
    assert crowd.real.watched == {"orders"}


async def test_whoever_left_is_not_woken(crowd: Crowd) -> None:
    crowd.watch("a", "b")
    crowd.unwatch("a")
    crowd.unwatch("a")
    crowd.real.mark("orders")
    await turns()
    assert crowd.woken == [("b", 0.0)]
    crowd.unwatch("b")
    crowd.watch("a")
    crowd.unwatch("a")
    assert crowd.real.watched == set()


async def test_what_one_cannot_take_is_passed_on(crowd: Crowd) -> None:
    crowd.watch("a", "b")
    crowd.waits.pass_on("orders", 5.0)
    assert crowd.woken == [("a", 5.0)]
    assert crowd.real.watched == {"orders"}, "b still waits"
    crowd.real.mark("orders")
    await turns()
    assert crowd.woken == [("a", 5.0), ("b", 0.0)]


async def test_where_nobody_waits_the_marker_goes_back(crowd: Crowd) -> None:
    crowd.waits.pass_on("orders", 5.0)
    assert crowd.real.markers == {"orders": 5.0}
    crowd.watch("late")
    await asyncio.sleep(0)
    assert crowd.woken == [("late", 5.0)]
