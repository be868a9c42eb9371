"""Which connections go when there are too many. What a connection waits for is shown on real ones."""

import asyncio

import pytest

from toril.config.settings import ConnectionPolicy
from toril.server.connection_sweep import ConnectionSweep, Spare, SweptConnection
from toril.server.descriptors import Descriptors, divided


class Connection(SweptConnection):
    """A connection that can be spared as it was told."""

    def __init__(self, number: int, rank: Spare | None, since: float = 0.0, *, unread: bool = False) -> None:
        self.number = number
        self.unread = unread
        self.rank = rank
        self.since = since
        self.is_shed = False

    def spare(self, now: float) -> tuple[Spare, float] | None:
        return None if self.rank is None or self.is_shed else (self.rank, self.since)

    def check(self, now: float, slack_s: float) -> None:
        pass

    def has_unread(self) -> bool:
        return self.unread

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


def test_connections_are_closed_in_the_order_silent_idle_stalled() -> None:
    assert shed_of((Spare.STALLED, 0), (Spare.IDLE, 1), (Spare.SILENT, 5), (Spare.YOUNG, 9)) == [2]
    assert shed_of((Spare.STALLED, 0), (Spare.IDLE, 1), (Spare.YOUNG, 9)) == [1]
    assert shed_of((Spare.STALLED, 3), (Spare.YOUNG, 0)) == [0]


def test_among_equals_the_connection_that_has_waited_longest_is_closed() -> None:
    assert shed_of((Spare.SILENT, 3), (Spare.SILENT, 1), (Spare.SILENT, 2)) == [1]


def test_of_connections_from_the_same_second_the_oldest_is_closed() -> None:
    assert shed_of((Spare.YOUNG, 1), (Spare.YOUNG, 1), (Spare.YOUNG, 1)) == [0]


def test_an_idle_connection_with_a_new_request_stays_and_the_next_is_closed() -> None:
    connections = [Connection(number, Spare.IDLE, unread=number < 2) for number in range(4)]
    newest = Connection(4, Spare.YOUNG)
    assert sweep().make_room([*connections, newest], newest)
    assert [connection.is_shed for connection in connections] == [False, False, True, False]


def test_if_no_connection_can_be_spared_none_is_closed() -> None:
    assert shed_of((None, 0), (None, 0)) == []


def test_with_many_connections_several_are_closed_per_search() -> None:
    assert len(shed_of(*[(Spare.IDLE, 0)] * 640)) == 11
    assert len(shed_of(*[(Spare.YOUNG, 0)] * 640)) == 11


async def test_idle_connections_are_closed_for_other_uses_of_the_reserve_and_young_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other things come to have 117 of 124 descriptors, 4 are reserved: the ten connections are two too many."""
    monkeypatch.setattr("toril.server.connection_sweep.count_open", lambda _: 10 + 117)
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


def test_the_sweep_closes_no_connections_that_it_does_not_know() -> None:
    newest = Connection(1, Spare.YOUNG)
    assert not sweep().make_room([object(), newest], newest)


def test_the_connection_limit_leaves_the_reserve_free() -> None:
    assert sweep().most == 100
    assert ConnectionSweep(ConnectionPolicy()).most > 2**31
