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


CHECKED = ("--seed", "18", "--size", "200", "--faults", "24")


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


def by_checker(path: Path) -> Verdict:
    """Return what the checker says of these sources: of all doors together, then of deliveries alone."""
    spent_s = 0.0
    for doors in ((), ("--door", "delivery")):
        code, output, after_s = _run(path, "-m", "benchmarks.histories", *CHECKED, *doors)
        spent_s += after_s
        if code:
            kinds = re.search(r"^Against the promises: (.*?)\.", output, re.MULTILINE)
            said = kinds[1] if kinds else output.strip().splitlines()[-1]
            found = [kind for kind in said.split(", ") if not kind.endswith(": 0")]
            return Verdict(True, ", ".join(found), spent_s)
    return Verdict(False, "", spent_s)


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
            "checker": lambda: by_checker(path),
            "unit": lambda: by_unit_tests(path, room),
        }
        cells = [find().cell() if only in {None, name} else "" for name, find in finders.items()]
    return f"| `{defect.name}` | {defect.breaks} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
