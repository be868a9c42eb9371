"""The seeded defects fit into the sources, and the simulation finds what it is there for."""

from pathlib import Path

import pytest
from benchmarks.histories.plan import DoorName, faults_for

from tests.simulation.defects import DEFECTS, Defect
from tests.simulation.trials import FAULTS, ROOT, broken_sources, by_simulation, edited

QUICK = ("ends-before-ledger", "one-attempt-too-many", "renews-too-late", "never-puts-back", "key-of-crashed-claim")


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_defect_fits_into_the_sources(defect: Defect) -> None:
    source = (ROOT / "src" / "toril" / defect.path).read_text()
    compile(edited(defect, source), defect.path, "exec")


@pytest.mark.parametrize("name", QUICK)
def test_the_simulation_finds_a_defect(name: str, tmp_path: Path) -> None:
    (defect,) = [one for one in DEFECTS if one.name == name]
    assert by_simulation(broken_sources(defect, tmp_path), "0:40").found


def test_the_checker_is_tried_with_faults_that_it_has_on_defects_that_there_are() -> None:
    assert set(FAULTS) <= {defect.name for defect in DEFECTS}
    assert {fault for faults in FAULTS.values() for fault in faults} <= set(map(str, faults_for([DoorName.DELIVERY])))
