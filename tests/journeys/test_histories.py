"""The checker of `benchmarks/histories`, its short version: all doors, every fault once, and every promise judged."""

import shutil

import pytest
from benchmarks.histories.fleet import LOCK_S
from benchmarks.histories.judge import PULL_WORKERS, Judge
from benchmarks.histories.plan import DoorName, Fault, Reply, faults_for
from benchmarks.histories.report import histories, report
from benchmarks.histories.run import Size, run

pytestmark = pytest.mark.promise
NEEDS_MEANS = {Fault.MOVE_CLOCK, Fault.FULL_REDIS, Fault.FULL_POSTGRES}
"""What takes a C compiler, or the right to mount."""
LEASE_S = 4.0


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("doors", [list(DoorName), [DoorName.DELIVERY]], ids=["all doors", "delivery alone"])
def test_no_promise_is_broken_while_everything_is_harmed(doors: list[DoorName]) -> None:
    accepted = 240 // len(doors)
    kinds = faults_for(doors)
    history, folder = run(18, doors, Size(accepted, faults=len(kinds), lease_s=LEASE_S))
    verdict = Judge(history, LOCK_S).verdict()
    said = "\n".join([*report(history, verdict, 0.0), *histories(verdict.violations), f"logs in {folder}"])
    print(said)
    assert verdict.passed, said
    shutil.rmtree(folder)
    numbers = {name: found.accepted for name, found in verdict.doors.items()}
    if DoorName.QUEUES in doors:
        assert verdict.doors[PULL_WORKERS].arrivals > 0
        numbers[DoorName.QUEUES] += numbers.pop(PULL_WORKERS)
    assert all(number >= accepted for number in numbers.values())
    assert {harm.fault for harm in history.harms} - {Fault.STALL} == set(kinds) - history.untried
    assert history.untried <= NEEDS_MEANS
    arrivals = [one for cases in history.cases.values() for case in cases for one in case.arrivals]
    leases = [one.held for one in arrivals if one.held is not None and one.reply is not Reply.EXTENDED]
    assert {round(held.until - held.asked_from, 6) for held in leases} == ({LEASE_S} if leases else set())
    if Fault.MOVE_CLOCK not in history.untried:  # there is a C compiler
        sent_by = {one.member for one in arrivals if one.held is None}
        assert sent_by == {0, 1}
