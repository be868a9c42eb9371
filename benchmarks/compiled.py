"""Compiles toril's hottest modules with mypyc in a copy of the sources, to measure what that gives.

    python -m benchmarks.compiled /tmp/compiled
    python -m benchmarks.interleaved --before . --after /tmp/compiled --scenario add --scenario accept

docs/decisions/0014 says what it gave. Nothing that is published is compiled.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import ROOT

MODULES = (
    "redis/resp", "bullmq/producer", "bullmq/rules/job", "bullmq/rules/job_decoding", "queues/queues",
    "queues/job_json", "telemetry/prometheus_meter", "web/request", "web/auth", "web/request_metrics",
    "web/responses", "web/idempotency_key",
)  # fmt: skip
"""Where py-spy finds two fifths of an add's time; compiled, others of the hottest ones fail or do not work."""
_BUILD = """
import sys
from setuptools import setup
from mypyc.build import mypycify
modules, sys.argv[1:] = sys.argv[1:], ["build_ext", "--inplace"]
setup(name="toril-compiled", ext_modules=mypycify(["--config-file=../mypy.ini", *modules], opt_level="2"))
"""


def main() -> None:
    """Copy and compile: some five minutes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="made anew; what was in it is removed")
    parser.add_argument("--module", action="append", help=f"as {MODULES[0]}; repeatable (default: the hottest ones)")
    options = parser.parse_args()
    source = options.folder.absolute() / "src"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    (options.folder / "mypy.ini").write_text("[mypy]\nstrict = True\nignore_missing_imports = True\n")
    modules = [f"toril/{name}.py" for name in options.module or MODULES]
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        [sys.executable, "-c", _BUILD, *modules], cwd=source, env=os.environ | {"PATH": programs}, check=True
    )


if __name__ == "__main__":
    main()
