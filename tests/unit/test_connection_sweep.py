"""Which connections go when there are too many. What a connection waits for is shown on real ones."""

import asyncio

import pytest

from toril.connection_sweep import ConnectionSweep, Spare, Watched
from toril.core.policy import ConnectionPolicy
from toril.descriptors import Descriptors, divided


class Connection(Watched):
    """A connection that can be spared as it was told."""

    def __init__(self, number: int, rank: Spare | None, since: float = 0.0) -> None:
        self.number = number
        self.rank = rank
        self.since = since
        self.is_shed = False

    def spare(self, now: float) -> tuple[Spare, float] | None:
        return None if self.rank is None or self.is_shed else (self.rank, self.since)

    def check(self, now: float, slack_s: float) -> None:
        pass

    def shed(self) -> None:
        self.is_shed = True


def sweep() -> ConnectionSweep:
    return ConnectionSweep(ConnectionPolicy(), divided(160, 20))


def shed_of(*ranks: tuple[Spare | None, float]) -> list[int]:
    """The indices of those that go for a newcomer."""
    connections = [Connection(number, *rank) for number, rank in enumerate(ranks)]
    newest = Connection(len(ranks), Spare.YOUNG)
    made = sweep().make_room([*connections, newest], newest)
    gone = [connection.number for connection in connections if connection.is_shed]
    assert made == bool(gone)
    assert not newest.is_shed
    return gone


def test_silent_ones_go_before_idle_ones_and_these_before_bodies_that_stand_still() -> None:
    assert shed_of((Spare.STALLED, 0), (Spare.IDLE, 1), (Spare.SILENT, 5), (Spare.YOUNG, 9)) == [2]
    assert shed_of((Spare.STALLED, 0), (Spare.IDLE, 1), (Spare.YOUNG, 9)) == [1]
    assert shed_of((Spare.STALLED, 3), (Spare.YOUNG, 0)) == [0]


def test_of_its_like_the_one_that_has_waited_longest_goes() -> None:
    assert shed_of((Spare.SILENT, 3), (Spare.SILENT, 1), (Spare.SILENT, 2)) == [1]


def test_of_those_that_came_in_the_same_second_the_oldest_goes() -> None:
    assert shed_of((Spare.YOUNG, 1), (Spare.YOUNG, 1), (Spare.YOUNG, 1)) == [0]


def test_where_none_can_be_spared_none_goes() -> None:
    assert shed_of((None, 0), (None, 0)) == []


def test_with_many_several_go_at_once_so_that_few_newcomers_cost_a_search() -> None:
    assert len(shed_of(*[(Spare.IDLE, 0)] * 640)) == 11
    assert len(shed_of(*[(Spare.YOUNG, 0)] * 640)) == 11


async def test_what_other_things_take_of_the_reserve_idle_connections_give_back_and_the_young_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other things come to have 117 of 124 descriptors, 4 are reserved: the ten connections are two too many."""
    monkeypatch.setattr("toril.connection_sweep.count_open", lambda _: 10 + 117)
    kinds = (Spare.YOUNG, Spare.IDLE, Spare.IDLE, Spare.IDLE)
    connections = [Connection(number, rank) for number, rank in enumerate(kinds)]
    few = Descriptors(124, 20, 4)
    watching = ConnectionSweep(ConnectionPolicy(head_timeout_s=0.02), few)
    assert watching.most == 100
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(watching.run([*connections, *([object()] * 6)]))
        while not (connections[1].is_shed and connections[2].is_shed):
            await asyncio.sleep(0.001)
        running.cancel()
    assert watching.most < 100
    assert not connections[0].is_shed


def test_other_connections_are_none_of_its_business() -> None:
    newest = Connection(1, Spare.YOUNG)
    assert not sweep().make_room([object(), newest], newest)


def test_there_may_be_as_many_as_the_reserve_leaves() -> None:
    assert sweep().most == 100
    assert ConnectionSweep(ConnectionPolicy()).most > 2**31
