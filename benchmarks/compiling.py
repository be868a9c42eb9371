"""Builds the C programs of the harness: what takes and makes load must cost less than what is measured."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.processes import ProcessError

_FOLDER = Path(__file__).parent


def built(name: str, *, library: bool = False) -> Path:
    """The binary of `name.c`, or the library, compiled if it is missing or older than its source.

    Raises:
        ProcessError: there is no C compiler, or the source does not compile.
    """
    source, binary = _FOLDER / f"{name}.c", _FOLDER / "bin" / name
    if binary.exists() and binary.stat().st_mtime > source.stat().st_mtime:
        return binary
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise ProcessError(f"{name} needs a C compiler: apt-get install gcc libc6-dev")
    binary.parent.mkdir(exist_ok=True)
    result = subprocess.run(
        [
            compiler,
            "-O2",
            "-Wall",
            "-Wextra",
            *(("-shared", "-fPIC") if library else ()),
            "-o",
            str(binary),
            str(source),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise ProcessError(f"{name}.c does not compile:\n{result.stderr}")
    return binary
