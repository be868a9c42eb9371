"""`make test-fast`: the unit tests, and the tests on real servers that a change is most likely to break."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
AT_MOST = 6
"""How many files run beside the unit tests: more would take over a minute. The others are named as left out."""
_BROWSER = "tests.support.browser"
"""What the files import that take half a minute each, since they load pages in a browser."""

_PUSH = "tests/journeys/test_add_push_result.py"
_SOCKETS = "tests/journeys/test_sockets.py"
_MANNERS = "tests/journeys/test_http_manners.py"
_REPLAY = "tests/compat/test_proxq_replay.py"
_FORWARDING = "tests/compat/test_proxq_forwarding.py"
_DELIVERIES = "tests/journeys/test_deliveries.py"
JOURNEYS = {
    "src/toril/queues/sockets/": (_SOCKETS,),
    "src/toril/queues/": (_PUSH, "tests/journeys/test_progress_and_logs.py"),
    "src/toril/proxy/": (_REPLAY, _FORWARDING),
    "src/toril/delivery/": (_DELIVERIES, "tests/journeys/test_targets.py"),
    "src/toril/": (_PUSH, _DELIVERIES, _REPLAY, _MANNERS),
    "clients/python/": ("tests/clients/test_python.py", "tests/clients/test_python_push.py"),
    "clients/typescript/": ("tests/clients/test_typescript.py",),
    "clients/go/": ("tests/clients/test_go.py",),
    "pyproject.toml": (_PUSH, _DELIVERIES, _REPLAY),
}
"""What shows at once that a folder is broken; the first folder that fits counts."""


def likely_broken(changed: Iterable[str], sources: Mapping[str, str]) -> list[str]:
    """Return the test files to run for these changed files, the likeliest first.

    Those are the changed test files, then the journeys of what was changed, then the files that import it.
    `sources` holds the text of each test file outside of tests/unit.
    """
    changed = sorted(changed)
    found = [path for path in changed if path in sources]
    for path in changed:
        found += next((files for folder, files in JOURNEYS.items() if path.startswith(folder)), ())
    for module in filter(None, map(_module, changed)):
        package, _, name = module.rpartition(".")
        imports = re.compile(rf"(from {re.escape(module)} |from {re.escape(package)} import .*\b{re.escape(name)}\b)")
        found += [path for path, source in sources.items() if imports.search(source)]
    return list(dict.fromkeys(path for path in found if path in sources))


def divided(files: Iterable[str], changed: Iterable[str], sources: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the files to run, and those that would take too long: the last ones, and unchanged ones with a browser."""
    files, changed = list(files), set(changed)
    chosen = [path for path in files if path in changed or _BROWSER not in sources[path]][:AT_MOST]
    return chosen, [path for path in files if path not in chosen]


def _module(path: str) -> str | None:
    """Return the name by which a Python file is imported; None for any other file."""
    if not path.endswith(".py") or not path.startswith(("src/", "tests/")):
        return None
    return path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def changed_files() -> Iterator[str]:
    """Yield what differs from main, committed or not; on a main without changes, what its last commit changed."""
    base = _git("merge-base", "HEAD", "main").strip() or "HEAD"
    names = _git("diff", "--name-only", base) + _git("ls-files", "--others", "--exclude-standard")
    yield from (names or _git("diff", "--name-only", "HEAD~1")).splitlines()


def _git(*command: str) -> str:
    done = subprocess.run(["git", *command], cwd=ROOT, check=False, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def main() -> None:
    """Say what was chosen, and become pytest."""
    tests = (path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests").rglob("test_*.py")))
    sources = {path: (ROOT / path).read_text() for path in tests if not path.startswith("tests/unit/")}
    changed = list(changed_files())
    chosen, left_out = divided(likely_broken(changed, sources), changed, sources)
    print("tests/unit", *chosen, *(f"(left out: {path})" for path in left_out), sep="\n", flush=True)
    os.chdir(ROOT)
    options = ["-q", "-n", "2", "-m", "not slow", "--hypothesis-profile=fast"]
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *options, "tests/unit", *chosen])


if __name__ == "__main__":
    main()
