"""`python -m tests.simulation.trials`: who finds each seeded defect, and after how long.

Each defect is made in a copy of the sources. The simulation runs until a seed breaks something, the checker of
`benchmarks/histories` once, and the unit tests of the room that the defect is in until one fails.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from msgspec import Struct

from tests.simulation.defects import DEFECTS, Defect

ROOT = Path(__file__).parents[2]
UNIT = {
    "engine": ("engine",),
    "core": ("core", "engine"),
    "queues": ("queues", "engine"),
    "delivery": ("delivery",),
    "proxy": ("proxy",),
}
"""The unit tests of each room, and of those that use what is in it."""
CHECKED = ("--seed", "18", "--size", "500", "--callers", "16", "--faults", "12", "--patience", "40")
_OF_REDIS = ("Redis stood still", "Redis killed", "connections to Redis cut", "Redis unreachable for one toril")
_OF_TORIL = ("toril killed", "toril stood still")
_OF_LEDGER = ("PostgreSQL stood still", "PostgreSQL killed", "connections to PostgreSQL cut")
_QUIET = ("configuration reloaded",)
_FLUSHED = ("Redis flushed",)
FAULTS = {
    "settles-lost-lease": _OF_TORIL,
    "releases-lost-lease": _OF_TORIL,
    "loses-by-job": _OF_TORIL,
    "token-after-late-try": _OF_REDIS,
    "no-adoption": _OF_REDIS,
    "no-doubt": _OF_REDIS,
    "forgets-slot-of-broken-job": _OF_REDIS,
    "gives-up-at-once": ("connections to Redis cut",),
    "renews-too-late": ("PostgreSQL unreachable for one toril", "PostgreSQL stood still"),
    "put-back-spends": ("target paused",),
    "one-attempt-too-many": _QUIET,
    "cancelled-goes-on": _QUIET,
    "late-answer-loses-pull": ("connections to Redis cut",),
    "no-stalled-check": _OF_TORIL,
    "stalled-too-often-runs": _OF_TORIL,
    "leaves-without-abandoning": ("toril restarted in good order", "configuration reloaded"),
    "settles-when-ledger-is-away": _OF_LEDGER,
    "ends-before-ledger": _OF_LEDGER,
    "job-before-row": _OF_LEDGER,
    "releases-unrecorded": (*_OF_LEDGER, "toril restarted in good order"),
    "loses-the-living": ("PostgreSQL unreachable for one toril",),
    "loses-before-lease-ends": ("PostgreSQL unreachable for one toril", "toril killed"),
    "late-end-refused": ("PostgreSQL unreachable for one toril", "Redis unreachable for one toril"),
    "attempts-unbegun": _OF_REDIS,
    "never-loses": _OF_TORIL,
    "never-says-unqueued": _OF_REDIS,
    "no-poll": _OF_TORIL,
    "key-of-crashed-claim": _OF_TORIL,
    "adopts-what-it-made": _OF_TORIL,
    "adopted-wait-for-ever": _OF_REDIS,
    "leaves-after-locks": ("toril restarted in good order", "Redis stood still", "Redis killed"),
    "one-slot-too-many": _QUIET,
    "one-delivery-attempt-too-many": _QUIET,
    "one-proxied-attempt-too-many": _QUIET,
    "key-is-free-when-answered": _QUIET,
    "cancel-is-only-said": _QUIET,
    "never-puts-back": _FLUSHED,
    "compares-once": _FLUSHED,
}
"""The faults of the checker in which a defect should show; all in turn where it is not named. Where Redis is flushed,
deliveries are checked alone."""


class Verdict(Struct, frozen=True):
    """Whether a defect was found, by what, and after how many seconds of CPU."""

    found: bool
    by: str
    after_s: float

    def cell(self) -> str:
        """Return a cell of the table."""
        return f"{self.by}, {self.after_s:.0f} s" if self.found else f"not found ({self.after_s:.0f} s)"


def broken_sources(defect: Defect, folder: Path) -> Path:
    """Copy the sources with a defect in them into a folder; return what to put on Python's path."""
    shutil.copytree(ROOT / "src" / "toril", folder / "toril", ignore=shutil.ignore_patterns("__pycache__", "static"))
    path = folder / "toril" / defect.path
    path.write_text(edited(defect, path.read_text()))
    return folder


def edited(defect: Defect, source: str) -> str:
    """Return a source with a defect. Raises `ValueError` where it does not fit."""
    if source.count(defect.before) != 1:
        raise ValueError(f"{defect.name} fits {source.count(defect.before)} times into {defect.path}")
    return source.replace(defect.before, defect.after)


def _run(path: Path, *command: str) -> tuple[int, str, float]:
    """Return the exit code of a program, what it printed, and the seconds of CPU that it took."""
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryFile("w+") as output:
        program = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        _, status, spent = os.wait4(program.pid, 0)
        program.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return program.returncode, output.read(), spent.ru_utime + spent.ru_stime


def by_simulation(path: Path, seeds: str) -> Verdict:
    """Return what the simulation says of these sources."""
    code, output, after_s = _run(path, "-m", "tests.simulation", "--first", "--seeds", seeds)
    seed = re.search(r"^(\w+), seed (\d+): (.*)", output, re.MULTILINE)
    if code == 0 or seed is None:
        return Verdict(code != 0, output.strip().splitlines()[-1] if code else "", after_s)
    return Verdict(True, f"{seed[1]}, seed {seed[2]}", after_s)


def by_unit_tests(path: Path, room: str) -> Verdict:
    """Return what the unit tests of a room say of these sources."""
    folders = [f"tests/unit/{name}" for name in UNIT[room]]
    options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--timeout=60"]
    code, output, after_s = _run(path, "-m", "pytest", *options, *folders)
    failed = re.search(r"^(?:FAILED|ERROR) \S*/(\w+)\.py(?:::(\w+))?", output, re.MULTILINE)
    return Verdict(code != 0, f"`{failed[1]}`" if failed else "the suite", after_s)


def by_checker(path: Path, name: str = "") -> Verdict:
    """Return what the checker says of torils with these sources, in which there is the defect of this name."""
    faults = FAULTS.get(name, ())
    options = [*CHECKED, "--sources", str(path), *(option for fault in faults for option in ("--fault", fault))]
    if faults == _FLUSHED:
        options += ["--door", "delivery"]
    code, output, after_s = _run(ROOT, "-m", "benchmarks.histories", *options)
    if not code:
        return Verdict(False, "", after_s)
    kinds = re.search(r"^Against the promises: (.*?)\.", output, re.MULTILINE)
    if kinds is None:
        error = re.findall(r"^[ |]*(\w+(?:Error|Exception): .*)", output, re.MULTILINE)
        return Verdict(True, error[-1].partition(";")[0] if error else "the run", after_s)
    said = kinds[1]
    return Verdict(True, ", ".join(kind for kind in said.split(", ") if not kind.endswith(": 0")), after_s)


def main() -> None:
    """Try each defect, and print a row of a table for it."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.trials", description=__doc__)
    parser.add_argument("names", nargs="*", help="the defects to try (default: all)")
    parser.add_argument("--seeds", default="0:1000", help="the seeds to live through (default: 0:1000)")
    parser.add_argument("--only", choices=("simulation", "checker", "unit"), help="try one of them")
    parser.add_argument("--side-by-side", type=int, default=1, help="how many at a time")
    given = parser.parse_args()
    print("| defect | what it breaks | simulation | checker | unit tests |\n|---|---|---|---|---|")
    chosen = [defect for defect in DEFECTS if defect.name in given.names or not given.names]
    with ThreadPoolExecutor(given.side_by_side) as threads:
        for trial in as_completed([threads.submit(_row, defect, given.seeds, given.only) for defect in chosen]):
            print(trial.result(), flush=True)


def _row(defect: Defect, seeds: str, only: str | None) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = broken_sources(defect, Path(folder))
        room = defect.path.partition("/")[0]
        finders: dict[str, Callable[[], Verdict]] = {
            "simulation": lambda: by_simulation(path, seeds),
            "checker": lambda: by_checker(path, defect.name),
            "unit": lambda: by_unit_tests(path, room),
        }
        cells = [find().cell() if only in {None, name} else "" for name, find in finders.items()]
    return f"| `{defect.name}` | {defect.breaks} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
