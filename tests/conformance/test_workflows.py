"""The workflows under `.github`, as actionlint reads them: syntax, expressions, contexts, inputs of actions."""

import subprocess
from pathlib import Path

import pytest

from tests.support.go_tools import BUILDING_S, go_tool

WORKFLOWS = Path(__file__).parents[2] / ".github/workflows"


@pytest.mark.timeout(BUILDING_S)
def test_actionlint_finds_nothing_in_the_workflows() -> None:
    files = sorted(str(path) for path in WORKFLOWS.glob("*.yaml"))
    command = [go_tool("actionlint"), "-no-color", "-shellcheck=", "-pyflakes=", *files]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.timeout(BUILDING_S)
def test_actionlint_finds_a_fault(tmp_path: Path) -> None:
    fault = tmp_path / "test.yaml"
    fault.write_text((WORKFLOWS / "test.yaml").read_text().replace("runs-on:", "runs-at:"))
    command = [go_tool("actionlint"), "-no-color", "-shellcheck=", "-pyflakes=", str(fault)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "runs-at" in done.stdout
