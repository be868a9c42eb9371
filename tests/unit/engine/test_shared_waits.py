import asyncio
from collections.abc import Callable

import pytest

from tests.unit.engine.support import turns
from toril.engine.shared_waits import SharedWaits
from toril.testing import FakeMarkerWaits


class Waiters:
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
async def waiters() -> Waiters:
    return Waiters()


async def test_a_marker_wakes_the_waiter_that_has_waited_longest(waiters: Waiters) -> None:
    waiters.watch("a", "b", "c")
    waiters.real.mark("orders")
    await turns()
    assert waiters.woken == [("a", 0.0)]
    waiters.watch("a")
    for _ in range(3):
        waiters.real.mark("orders")
        await turns()
    assert [name for name, _ in waiters.woken] == ["a", "b", "c", "a"]
    assert waiters.real.watched == set()


async def test_a_queue_with_a_waiter_is_not_forgotten(waiters: Waiters) -> None:
    waiters.watch("a")
    waiters.waits.forget("orders")
    assert (waiters.real.forgotten, waiters.real.watched) == ([], {"orders"})
    waiters.unwatch("a")
    waiters.waits.forget("orders")
    assert waiters.real.forgotten == ["orders"]


async def test_a_marker_wakes_only_waiters_of_its_queue(waiters: Waiters) -> None:
    waiters.watch("a")
    waiters.watch("b", queue="mails")
    waiters.real.mark("mails", 7.0)
    await turns()
    assert waiters.woken == [("b", 7.0)]
    assert waiters.real.watched == {"orders"}


async def test_a_waiter_that_has_left_is_not_woken(waiters: Waiters) -> None:
    waiters.watch("a", "b")
    waiters.unwatch("a")
    waiters.unwatch("a")
    waiters.real.mark("orders")
    await turns()
    assert waiters.woken == [("b", 0.0)]
    waiters.unwatch("b")
    waiters.watch("a")
    waiters.unwatch("a")
    assert waiters.real.watched == set()


async def test_a_wake_that_a_waiter_cannot_use_is_passed_on(waiters: Waiters) -> None:
    waiters.watch("a", "b")
    waiters.waits.pass_on("orders", 5.0)
    assert waiters.woken == [("a", 5.0)]
    assert waiters.real.watched == {"orders"}, "b still waits"
    waiters.real.mark("orders")
    await turns()
    assert waiters.woken == [("a", 5.0), ("b", 0.0)]


async def test_a_marker_without_a_waiter_is_put_back(waiters: Waiters) -> None:
    waiters.waits.pass_on("orders", 5.0)
    assert waiters.real.markers == {"orders": 5.0}
    waiters.watch("late")
    await asyncio.sleep(0)
    assert waiters.woken == [("late", 5.0)]
