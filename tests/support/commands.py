"""Runs commands of toril to their end, as a script does."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.support.preloaded import starter

Ran = subprocess.CompletedProcess[str]
BARE = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
"""The least that a command has in its environment; the path is that of a copy of the source, if a copy is tested."""


def run_toril(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    given: str = "",
    timeout_s: float = 60.0,
) -> Ran:
    """Run ``python -m toril`` with these arguments and `given` as its input.

    Its environment is `env` and the least that it needs. It is forked from the starter, except on macOS.
    """
    environment = {"PYTHONUNBUFFERED": "1", **BARE, **(env or {})}
    if sys.platform != "linux":
        return subprocess.run(
            [sys.executable, "-m", "toril", *arguments],
            env=environment, cwd=cwd, check=False, capture_output=True, text=True, input=given, timeout=timeout_s,
        )  # fmt: skip
    with tempfile.TemporaryFile() as read, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        read.write(given.encode())
        read.seek(0)
        streams = [read.fileno(), output.fileno(), errors.fileno()]
        process = starter(environment).start(arguments, environment, cwd or Path.cwd(), streams)
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, 9)
            process.wait()
            raise
        for file in (output, errors):
            file.seek(0)
        return Ran(list(arguments), status, output.read().decode(), errors.read().decode())
