"""Seeds that have found something wrong in toril, each with what it was."""

import pytest

from tests.simulation.run import simulate

FOUND = {
    ("queues", 151): "a retry that was carried out late ended a later attempt of its job under the same lock token",
    ("groups", 1889): "a token whose release was refused was used again, and a late renewal gave its job back to it",
    ("queues", 508): "a process that left waited for settlements although their locks had lapsed",
    ("sockets", 355): "a job was given back although its lease was lost while the stall of its socket was counted",
    ("workflows", 358): "a job whose lease was lost while its scheduler was asked for the next one was given back",
    ("workflows", 2575): "a lease that was given up while its lock was taken back was written to",
    ("workflows", 2635): "an attempt whose result could not be written was made a second time for the same start",
    ("groups", 118): "the release of a job was tried again although its lease had been lost meanwhile",
}


@pytest.mark.parametrize(("door", "seed"), FOUND, ids=str)
def test_what_a_seed_found_stays_mended(door: str, seed: int) -> None:
    simulate(door, seed)
