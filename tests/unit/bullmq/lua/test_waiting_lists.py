"""The rule of waiting lists, in the scripts of the `bullmq` package that is installed."""

import re
from importlib.resources import files

import pytest

from toril.bullmq.lua.waiting_lists import STANDING, guarded

SCRIPTS = {
    file.name.removesuffix(".lua"): file.read_bytes()
    for file in files("bullmq").joinpath("commands").iterdir()
    if file.name.endswith(".lua") and not file.name.startswith("relay")
}
MAKES_WAIT = sorted(
    name for name, text in SCRIPTS.items() if b"addJobInTargetList(" in text or b'rcall("LPUSH", KEYS[4]' in text
)
# Lists in which no job waits.
ELSEWHERE = (b"activeKey", b"dataPointsList")


def unguarded_pushes(text: bytes) -> list[bytes]:
    """Calls of a script's that push, or may do so, without asking for the list."""
    commands = rb"""\br?call\(\s*(?:["'][LR]PUSH["']|[A-Za-z][^,]*),\s*([^,]+),"""
    return [name for name in re.findall(commands, text) if name not in ELSEWHERE and b"standing(" not in name]


@pytest.mark.parametrize("name", MAKES_WAIT)
def test_every_script_that_pushes_a_waiting_job_looks_up_the_list(name: str) -> None:
    assert unguarded_pushes(SCRIPTS[name])
    made = guarded(SCRIPTS[name])
    assert made.startswith(STANDING)
    assert unguarded_pushes(made[made.index(b"--[[") :]) == []


def test_the_hot_scripts_ask_only_where_the_queue_is_known_to_be_paused() -> None:
    """Another look costs 7 % of an add."""
    for name in ("addStandardJob-9", "moveToFinished-14", "moveToActive-11"):
        assert b"isPausedOrMaxed and standing(targetKey) or targetKey" in guarded(SCRIPTS[name])
        assert b"local function push(" not in guarded(SCRIPTS[name])


def test_a_script_that_makes_no_job_wait_stays_as_it_is() -> None:
    for name in ("extendLocks-1", "getJobs-1", "updateProgress-3"):
        assert guarded(SCRIPTS[name]) == SCRIPTS[name]
