"""Whole worlds from their seeds: whatever goes wrong in them, nothing is lost, doubled or stuck.

`TORIL_SIMULATION_SEEDS` says how many of each world (300 take some 45 s of CPU); `make proof-simulation` takes 10,000.
"""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.run import WORLDS, simulate

ROOT = Path(__file__).parents[2]
BLOCK = 50
SEEDS = int(os.environ.get("TORIL_SIMULATION_SEEDS") or (200 if os.environ.get("CI") else 300))


@pytest.fixture(autouse=True)
def _little_collected() -> Iterator[None]:
    """Leave the garbage of a block to its end: a loop of virtual time makes much of it, and keeps none."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("door", sorted(WORLDS))
@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_nothing_is_lost_whatever_happens(door: str, first: int) -> None:
    for seed in range(first, min(first + BLOCK, SEEDS)):
        simulate(door, seed)


@pytest.mark.parametrize("door", sorted(WORLDS))
def test_a_seed_has_the_same_trace_in_every_process(door: str) -> None:
    """Also where strings have other hashes."""
    command = [sys.executable, "-m", "tests.simulation", "--door", door, "--seeds", "0:12", "--trace"]
    texts = [
        subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout.rpartition(" in ")[0]
        for seed in ("1", "2")
    ]
    assert texts[0].count("\n") > 1000
    assert texts[0] == texts[1]


@pytest.mark.parametrize("door", sorted(WORLDS))
def test_two_seeds_have_two_traces(door: str) -> None:
    assert simulate(door, 1).text() != simulate(door, 2).text()
