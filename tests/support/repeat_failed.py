"""Repeat the few tests that failed in a CI run, with nothing beside them: `python -m tests.support.repeat_failed`.

The suite is thousands of tests on real servers on a small machine. One that fails there and passes alone depends on
timing: it is printed, and has to be mended, but does not hold up the change. A test marked `promise` shows that nothing
is lost, done twice or let in: its failure always counts.

As a pytest plugin, this module keeps which tests failed for that command to read.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

AT_MOST = 3
"""More failures than this are not chance."""
_KEPT = "toril/failed"
_FAILED = pytest.StashKey[dict[str, bool]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FAILED] = {}
    config.pluginmanager.register(_Record(config.stash[_FAILED]))


class _Record:
    """Which tests failed, and which of them are marked `promise`."""

    def __init__(self, failed: dict[str, bool]) -> None:
        self._failed = failed

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed[report.nodeid] = "promise" in report.keywords


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep the failed tests and how the run ended."""
    config = session.config
    cache = getattr(config, "cache", None)
    if cache is not None and not hasattr(config, "workerinput"):
        cache.set(_KEPT, {"status": int(exitstatus), "failed": config.stash[_FAILED]})


def to_repeat(kept: Mapping[str, Any] | None) -> list[str] | str:
    """Return the tests to repeat, or why the run has failed all the same.

    `kept` is what the run left: its exit status, and for each failed test whether it is marked `promise`.
    """
    if not kept or kept["status"] != pytest.ExitCode.TESTS_FAILED or not kept["failed"]:
        return "the tests did not run to their end"
    promises = [test for test, promise in kept["failed"].items() if promise]
    if promises:
        return f"the failure of a promise counts: {', '.join(promises)}"
    if len(kept["failed"]) > AT_MOST:
        return f"{len(kept['failed'])} tests failed; at most {AT_MOST} are repeated"
    return list(kept["failed"])


def main(root: Path) -> int:
    """Repeat what failed in the last run under `root`. Return the exit status of the whole run."""
    try:
        kept = json.loads((root / ".pytest_cache/v" / _KEPT).read_text())
    except FileNotFoundError:
        kept = None
    tests = to_repeat(kept)
    if isinstance(tests, str):
        print(f"not repeated: {tests}", file=sys.stderr)
        return 1
    print(f"repeated alone: {', '.join(tests)}", flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=root, env=environment, check=False)
    if done.returncode == 0:
        print(f"passed only when repeated, so mend what they depend on: {', '.join(tests)}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
