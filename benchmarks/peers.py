"""Other servers to measure beside toril, built from a checkout that the command line names."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.processes import ProcessError

_BUILT = Path(__file__).parent / "bin"
_BUILD_S = 600.0


def bullmq_proxy(checkout: Path) -> str:
    """Return the command of BullMQ Proxy in a checkout; what it needs is installed if it is missing.

    Raises:
        ProcessError: Bun is missing, or its packages cannot be installed.
    """
    bun = _program("bun")
    entry = checkout / "src" / "index.ts"
    if not entry.is_file():
        raise ProcessError(f"{checkout} is no checkout of BullMQ Proxy: it has no src/index.ts")
    if not (checkout / "node_modules").is_dir():
        _run([bun, "install", "--production", "--ignore-scripts"], checkout)
    # With a URL it gives up commands until it is connected, and of these its start is made.
    return f"env -u REDIS_URL {bun} run {entry.absolute()}"


def proxq(checkout: Path) -> str:
    """Return the command of a proxq that is built from a checkout.

    Raises:
        ProcessError: Go is missing, or proxq cannot be built.
    """
    go = _program("go")
    listed = _run([go, "list", "-f", '{{if eq .Name "main"}}{{.ImportPath}}{{end}}', "./..."], checkout)
    mains = [line for line in listed.splitlines() if line]
    if not mains:
        raise ProcessError(f"{checkout} has no program that Go could build")
    # An example or a tool beside the program is further down in the tree.
    package, binary = min(mains, key=lambda path: path.count("/")), _BUILT / "proxq"
    _BUILT.mkdir(exist_ok=True)
    _run([go, "build", "-o", str(binary), package], checkout)
    return str(binary)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ProcessError(f"{name} is missing, which this peer needs")
    return found


def _run(argv: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False, timeout=_BUILD_S)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ProcessError(f"{' '.join(argv)}: {exc}") from exc
    if done.returncode != 0:
        raise ProcessError(f"{' '.join(argv)} in {folder}:\n{done.stderr[-2_000:].strip()}")
    return done.stdout
