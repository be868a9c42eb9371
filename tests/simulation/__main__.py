"""`python -m tests.simulation`: live through seeds; one that breaks something is printed with how to repeat it."""

import argparse
import gc
import sys
import time

from tests.simulation.run import WORLDS, Found, simulate


def main() -> int:
    """Run what the command line says; return how many seeds broke something, at most 100."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--door", choices=sorted(WORLDS), help="the world (default: all)")
    parser.add_argument("--seed", type=int, help="one seed")
    parser.add_argument("--seeds", default="0:1000", help="from:to (default: 0:1000)")
    parser.add_argument("--first", action="store_true", help="stop at the first seed that breaks something")
    parser.add_argument("--trace", action="store_true", help="print all that happened, not only the end")
    given = parser.parse_args()
    first, last = (given.seed, given.seed + 1) if given.seed is not None else map(int, given.seeds.split(":"))
    doors = [given.door] if given.door else sorted(WORLDS)
    broken, lines, began = 0, 0, time.process_time()
    gc.disable()
    for seed in range(first, last):
        for door in doors:
            try:
                trace = simulate(door, seed)
            except Found as exc:
                trace, broken = exc.trace, broken + 1
                print(f"{door}, seed {seed}: {exc}", flush=True)
            lines += len(trace.lines)
            if given.trace:
                print(trace.text())
            if given.first and broken:
                return 1
        if seed % 25 == 0:
            gc.collect()
    spent_s = time.process_time() - began
    print(f"{broken} of {last - first} seeds broke something; {lines} steps in {spent_s:.1f} s of CPU")
    return min(broken, 100)


if __name__ == "__main__":
    sys.exit(main())
