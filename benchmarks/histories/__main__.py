"""Call, harm and judge a fleet of torils from outside: `python -m benchmarks.histories --size 1000 --seed 1`.

Prints the seed, every fault when it happens, and a report in Markdown with the histories that break a promise. It exits
with 1 where there is one. The same seed plans the same cases and the same faults at the same shares of the work.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import time
from pathlib import Path

from benchmarks.histories.fleet import LOCK_S
from benchmarks.histories.judge import Judge
from benchmarks.histories.plan import DoorName, Fault
from benchmarks.histories.pullers import LEASE_S
from benchmarks.histories.report import histories, report
from benchmarks.histories.run import Size, run
from benchmarks.processes import exit_on_sigterm

_CASES_A_FAULT = 1000
_FEWEST_FAULTS, _MOST_FAULTS = 20, 54


def main() -> int:
    """Carry out a run, print what it has shown, and return 1 where a promise was not kept."""
    exit_on_sigterm()
    options = _options()
    doors = options.door or list(DoorName)
    faults = options.faults
    if faults is None:
        faults = min(_MOST_FAULTS, max(_FEWEST_FAULTS, options.size * len(doors) // _CASES_A_FAULT))
    print(f"seed {options.seed}", flush=True)
    began = time.monotonic()
    size = Size(
        options.size,
        faults,
        callers=options.callers,
        kinds=tuple(options.fault or ()),
        confirming=options.sentinels,
        within_s=options.minutes * 60,
        patience_s=options.patience,
        sources=options.sources,
        processes=options.processes,
        lock_s=options.lock,
        lease_s=options.lease,
    )
    history, folder = run(options.seed, doors, size, lambda text: print(text, flush=True))
    verdict = Judge(history, size.lock_s).verdict()
    said = "\n".join(report(history, verdict, time.monotonic() - began))
    print(said)
    if options.report:
        options.report.write_text(said + "\n")
    print("\n".join(histories(verdict.violations)))
    if verdict.passed:
        shutil.rmtree(folder, ignore_errors=True)
        print("passed")
        return 0
    print(f"FAILED with seed {options.seed}; logs in {folder}")
    return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.histories", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1000, help="accepted by each door (default %(default)s)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31), help="repeats a plan")
    parser.add_argument(
        "--door", action="append", type=DoorName, choices=list(DoorName), help="all without; with delivery alone "
        "Redis loses its data too"
    )  # fmt: skip
    parser.add_argument(
        "--faults",
        type=int,
        help=f"without it, one for each {_CASES_A_FAULT} cases, but {_FEWEST_FAULTS} to {_MOST_FAULTS}",
    )
    parser.add_argument("--fault", action="append", type=Fault, metavar="NAME", help="all without")
    parser.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        metavar="N",
        help="begin nothing after so many, and judge the rest",
    )
    parser.add_argument("--callers", type=int, default=16, help="of each door (default %(default)s)")
    parser.add_argument(
        "--sentinels",
        type=int,
        choices=(1, 2),
        default=0,
        metavar="N",
        help="Redis fails over; N of two replicas confirm",
    )
    parser.add_argument(
        "--patience", type=float, default=Size.patience_s, metavar="S", help="how long all may take to come to rest"
    )
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="of each toril (default %(default)s)")
    parser.add_argument("--lock", type=float, default=LOCK_S, metavar="S", help="of jobs (default %(default)s)")
    parser.add_argument(
        "--lease", type=float, default=LEASE_S, metavar="S", help="of pull workers (default %(default)s)"
    )
    parser.add_argument("--sources", type=Path, metavar="FOLDER", help="of the toril to check, instead of this one's")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report there too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
