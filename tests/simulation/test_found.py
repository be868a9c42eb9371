"""Seeds that have found something wrong in toril, each with what it was."""

import pytest

from tests.simulation.run import simulate

FOUND = {
    ("queues", 151): "a retry that was carried out late ended a later attempt of its job under the same lock token",
    ("queues", 219): "the release of a job was tried again although its lease had been lost meanwhile",
}


@pytest.mark.parametrize(("door", "seed"), FOUND, ids=str)
def test_what_a_seed_found_stays_mended(door: str, seed: int) -> None:
    simulate(door, seed)
