import pytest
from hypothesis import given
from hypothesis import strategies as st

from toril.telemetry.rules.points import (
    ACCEPTED,
    END,
    FIVE_MINUTES,
    HOURS,
    MINUTES,
    RESOLUTIONS,
    WINDOWS,
    Resolution,
    Scope,
    queue_scope,
)

NOW_S = 1_795_992_345.678
# What Redis keeps of a hash in one piece of memory has so many fields at most.
COMPACT = 128


@pytest.mark.parametrize("resolution", RESOLUTIONS, ids=lambda one: one.name)
def test_a_block_is_small_enough_to_be_kept_compact(resolution: Resolution) -> None:
    assert resolution.block_s % resolution.step_s == 0
    assert resolution.block_s // resolution.step_s <= COMPACT


@given(at_s=st.floats(0, 4e9), resolution=st.sampled_from(RESOLUTIONS))
def test_a_point_is_kept_for_as_long_as_its_resolution_says(at_s: float, resolution: Resolution) -> None:
    slot = resolution.slot(at_s)
    # The life of a block begins anew with each write, so its oldest point lives longest; the last write is at its end.
    last_write_s = (resolution.block(slot) + 1) * resolution.block_s - resolution.step_s
    assert last_write_s + resolution.life_s >= slot * resolution.step_s + resolution.kept_s


@pytest.mark.parametrize(("name", "step_s", "points"), [("1h", 60, 60), ("24h", 300, 288), ("7d", 3600, 168)])
def test_a_window_ends_with_the_point_that_is_growing(name: str, step_s: int, points: int) -> None:
    window = WINDOWS[name]
    assert window.resolution.step_s == step_s
    first = window.first(NOW_S)
    assert first * step_s <= NOW_S - (points - 1) * step_s < (first + 1) * step_s
    assert first + points - 1 == int(NOW_S // step_s)


@pytest.mark.parametrize("window", WINDOWS.values(), ids=list(WINDOWS))
def test_a_window_reads_few_blocks_and_every_block_that_it_needs(window: object) -> None:
    assert isinstance(window, type(WINDOWS["1h"]))
    blocks = list(window.blocks(NOW_S))
    slots = range(window.first(NOW_S), window.first(NOW_S) + window.points)
    assert {window.resolution.block(slot) for slot in slots} == set(blocks)
    assert len(blocks) <= 5


def test_a_queue_has_a_bounded_number_of_keys() -> None:
    alive = [(one.life_s + one.block_s) // one.block_s + 1 for one in (MINUTES, FIVE_MINUTES, HOURS)]
    assert sum(alive) < 30


def test_keys_name_the_scope_resolution_and_block() -> None:
    assert queue_scope("orders").key("bull", MINUTES, 7) == "toril:stats:bull:queue:orders:1m:7"
    assert Scope("door", "queues").key("bull", HOURS, 7) == "toril:stats:bull:door:queues:1h:7"


def test_numbers_never_look_like_an_array_to_redis() -> None:
    """cmsgpack writes a table whose keys are 1 to n as an array: there are fewer numbers than the first one."""
    assert END - ACCEPTED < ACCEPTED
