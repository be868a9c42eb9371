"""Compares a commit with its parent, and fails where a request takes more CPU than before: `make bench-guard`.

    python -m benchmarks.guard                            # HEAD and its parent: some three minutes
    python -m benchmarks.guard --commit HEAD --base main

Both are checked out into worktrees, which are removed at the end, and measured in turns (`benchmarks.interleaved`) in
the environment of this one. A scenario that is over the limit is measured again with new processes, and fails where
all rounds together are over it: two processes of one source differ by a few percent, in most runs less. Exit status: 1
where a scenario fails, 2 where nothing could be measured.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import wrk
from benchmarks.interleaved import QUICK, SCENARIOS, Comparison, compare
from benchmarks.processes import ROOT, ProcessError, exit_on_sigterm

LIMIT_PERCENT = 7.0


def verdict(found: Comparison, limit_percent: float) -> str | None:
    """Return what to say of a scenario that got slower than the limit allows; None where it did not."""
    percent = (found.ratio - 1) * 100
    if percent <= limit_percent:
        return None
    return (
        f"FAILED {found.scenario}: {percent:.1f} % more CPU for a request than before ({found.before_us:.1f} to "
        f"{found.after_us:.1f} µs); the limit is {limit_percent:g} %"
    )


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A worktree of a commit, for the length of a block."""
    with tempfile.TemporaryDirectory(prefix="toril-bench-") as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--quiet", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> str:
    """Run git in this repository, and return what it prints.

    Raises:
        ProcessError: it fails; with what it said.
    """
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProcessError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _commit(named: str) -> str:
    try:
        return _git("rev-parse", "--verify", "--quiet", f"{named}^{{commit}}")
    except ProcessError:
        raise ProcessError(f"there is no commit {named}") from None


def _judge(scenario: str, trees: tuple[Path, Path], options: argparse.Namespace) -> str | None:
    """Measure a scenario, print its figures, and return what is wrong; None where nothing is."""
    found = compare(scenario, *trees, options.rounds, options.seconds)
    print(found.line(), flush=True)
    if verdict(found, options.limit) is None:
        return None
    found += compare(scenario, *trees, options.rounds, options.seconds)
    print(f"{found.line()} (measured again)", flush=True)
    return verdict(found, options.limit)


def main() -> int:
    """Measure, print a line for each scenario, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--commit", default="HEAD", help="what to judge (default HEAD)")
    parser.add_argument("--base", help="what to compare it with (default: its first parent)")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help=f"(default: {', '.join(QUICK)})")
    parser.add_argument("--limit", type=float, default=LIMIT_PERCENT, metavar="PERCENT", help="(default 7)")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    exit_on_sigterm()
    try:
        wrk.require()
        commit = _commit(options.commit)
        base = _commit(options.base or f"{commit}^")
        if _git("status", "--porcelain", "--untracked-files=no"):
            print("There are changes that are not committed; they are not measured.", flush=True)
        print(f"{base[:10]} (before) and {commit[:10]} (after):", flush=True)
        with worktree(base) as before, worktree(commit) as after:
            trees = (before, after)
            wrong = [said for scenario in options.scenario or QUICK if (said := _judge(scenario, trees, options))]
    except (ProcessError, RuntimeError) as exc:
        print(f"bench-guard: {exc}", file=sys.stderr)
        return 2
    print("\n".join(wrong) if wrong else f"No scenario takes over {options.limit:g} % more CPU than before.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
