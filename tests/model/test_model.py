"""The models keep their rules in every run that the simulator makes, and each rule that is broken is found."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.compat.conftest import installed

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent
INVARIANTS = {
    "delivery.qnt": [
        "kept",
        "goesOn",
        "oneEnd",
        "budget",
        "recorded",
        "removedWhenFinished",
        "othersLeftAlone",
        "noneAfterTheEnd",
        "lostOnlyIfUnheld",
    ],
    "acknowledging.qnt": ["nothingAcknowledgedIsLost"],
}
# Steps of a run, and runs with and without a broken rule: with this seed each is found in at least two of them.
STEPS = {"delivery.qnt": 50, "acknowledging.qnt": 25}
RUNS = {"delivery.qnt": 120, "acknowledging.qnt": 90}
REACHED = {"delivery.qnt": ["delivered", "deadLettered"], "acknowledging.qnt": ["allAcknowledged"]}


@pytest.fixture(scope="session")
def quint() -> Path:
    """The checker, installed from the lock file beside the models."""
    return installed(FOLDER) / "node_modules" / ".bin" / "quint"


def simulated(quint: Path, model: str, *options: str) -> dict[str, int]:
    """Simulate a model with a fixed seed; in how many runs each witness was seen."""
    steps = f"--max-steps={STEPS[model]}"
    command = [quint, "run", model, "--backend=typescript", "--seed=1", steps, *options]
    done = subprocess.run(command, cwd=FOLDER, check=False, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[ok] No violation found" in done.stdout
    seen = re.findall(r"^(\w+) was witnessed in (\d+) trace", done.stdout, re.MULTILINE)
    return {name: int(count) for name, count in seen}


@pytest.mark.parametrize("model", INVARIANTS)
def test_no_run_breaks_an_invariant(quint: Path, model: str) -> None:
    witnesses, runs = REACHED[model], f"--max-samples={RUNS[model] // 4}"
    seen = simulated(quint, model, runs, "--invariants", *INVARIANTS[model], "--witnesses", *witnesses)
    assert min(seen[name] for name in witnesses) > 0, "the runs do not get far enough to show anything"


@pytest.mark.parametrize("model", INVARIANTS)
def test_every_broken_rule_is_found(quint: Path, model: str) -> None:
    variants = re.findall(r'^  val (\w+) = broken == "\1" and not\(', (FOLDER / model).read_text(), re.MULTILINE)
    rules = re.findall(r'^  val [A-Z_]+ = broken != "(\w+)"$', (FOLDER / model).read_text(), re.MULTILINE)
    assert sorted(variants) == sorted(rules)
    runs = f"--max-samples={RUNS[model]}"
    seen = simulated(quint, model, "--init=initBroken", runs, "--witnesses", *variants)
    assert {name for name in variants if not seen[name]} == set()
