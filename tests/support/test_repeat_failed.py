"""What CI repeats and what it does not: runs of a small suite whose tests fail the first time."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repeat_failed import to_repeat

ROOT = Path(__file__).parents[2]
CONFTEST = """
from tests.support import repeat_failed

def pytest_configure(config):
    config.addinivalue_line("markers", "promise: counts")
    config.pluginmanager.register(repeat_failed)
"""
SUITE = """
import pytest
from pathlib import Path

def second_time(name):
    seen = Path(name + ".seen")
    before = seen.exists()
    seen.touch()
    return before

@pytest.mark.parametrize("path", ["GET /a b::[c]"])
def test_hasty(path):
    assert second_time("hasty")

@pytest.mark.promise
def test_kept():
    assert second_time("kept")

@pytest.fixture
def late():
    yield
    assert second_time("late")

def test_torn_down(late):
    pass

def test_wrong():
    assert False

def test_fine():
    pass
"""


def ci(folder: Path, chosen: str, *more: str) -> tuple[int, str]:
    """Run the chosen tests as CI does, then the command; its exit status and what it printed."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_suite.py").write_text(SUITE)
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments], cwd=folder, env=environment, check=False, capture_output=True, text=True
        )

    assert python("pytest", "-q", "-k", chosen, *more).returncode != 0
    done = python("tests.support.repeat_failed")
    return done.returncode, done.stdout + done.stderr


def test_a_test_that_passes_alone_is_named_and_does_not_fail_the_run(tmp_path: Path) -> None:
    status, printed = ci(tmp_path, "hasty or torn or fine", "-p", "xdist", "-n", "2")
    assert status == 0
    told = [line for line in printed.splitlines() if line.startswith("passed only when repeated")]
    assert len(told) == 1
    assert {"test_hasty", "test_torn_down", "test_fine"} & set(re.findall(r"::(\w+)", told[0])) == {
        "test_hasty",
        "test_torn_down",
    }


def test_a_test_that_fails_again_fails_the_run(tmp_path: Path) -> None:
    status, printed = ci(tmp_path, "hasty or wrong")
    assert status == 1
    assert "1 failed, 1 passed" in printed
    assert "passed only when repeated" not in printed


def test_a_promise_is_not_repeated(tmp_path: Path) -> None:
    assert ci(tmp_path, "kept or hasty") == (
        1,
        "not repeated: the failure of a promise counts: test_suite.py::test_kept\n",
    )


def test_a_run_that_was_cut_short_is_not_repeated(tmp_path: Path) -> None:
    status, printed = ci(tmp_path, "nothing_of_that_name")
    assert (status, printed) == (1, "not repeated: the tests did not run to their end\n")


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        (None, "the tests did not run to their end"),
        ({"status": 2, "failed": {"a": False}}, "the tests did not run to their end"),
        ({"status": 1, "failed": {}}, "the tests did not run to their end"),
        ({"status": 1, "failed": dict.fromkeys("abcd", False)}, "4 tests failed; at most 3 are repeated"),
        ({"status": 1, "failed": dict.fromkeys("abc", False)}, ["a", "b", "c"]),
    ],
)
def test_what_is_repeated(kept: dict[str, object] | None, found: list[str] | str) -> None:
    assert to_repeat(kept) == found
