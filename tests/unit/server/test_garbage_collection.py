"""A process that serves collects seldom, and leaves out what was there at its start."""

import gc
from collections.abc import Iterator

import pytest

from toril.server.garbage_collection import collect_seldom


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    """The collector of the tests is as before afterwards."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def test_what_is_there_at_the_start_is_left_out_of_collections() -> None:
    there = [[number] for number in range(1000)]
    collect_seldom()
    assert gc.get_freeze_count() > len(there)
    assert not any(one is there for one in gc.get_objects())


def test_young_objects_are_collected_seldom_and_older_ones_as_by_default() -> None:
    _, *older = gc.get_threshold()
    collect_seldom()
    assert gc.get_threshold() == (10_000, *older)


def test_cycles_that_come_later_are_still_freed() -> None:
    collect_seldom()
    ring: list[object] = []
    ring.append(ring)
    del ring
    assert gc.collect() >= 1
