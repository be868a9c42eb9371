"""Processes the benchmarks start, and stop by pid.

Owns every start and every stop: nothing here or elsewhere ends a process by name. Children run in sessions of
their own, so Ctrl-C reaches the harness alone and the harness then stops them in order.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class ProcessError(Exception):
    """A process we need did not come up, or failed; the text ends with what it printed."""

    def __init__(self, text: str, returncode: int | None = None) -> None:
        super().__init__(text)
        self.returncode = returncode


class Ended(NamedTuple):
    """A process that ran to its end: what it printed, and the seconds of CPU and of clock it took."""

    stdout: bytes
    cpu_s: float
    wall_s: float


class Child:
    """One server process of ours, from start to stop."""

    def __init__(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None, *, speaks: bool = False
    ) -> None:
        self.name = name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            argv,
            cwd=ROOT,
            env=environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if speaks else self._log,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def first_line(self) -> str:
        """The first line of the stdout of a child that `speaks`."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def alive(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        """The last 2,000 characters it printed, to explain a failure."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 2_000))
        return self._log.read().decode(errors="replace").strip()

    def stop(self, grace_s: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after the grace period. Stopping twice is harmless."""
        if self.alive():
            self._process.terminate()
            try:
                self._process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our own environment plus these variables."""
    return {**os.environ, **(extra or {})}


def module(name: str, *arguments: str) -> list[str]:
    """The command line that runs one of our modules with this interpreter."""
    return [sys.executable, "-m", f"benchmarks.{name}", *arguments]


def run_to_end(argv: Sequence[str], timeout_s: float, env: Mapping[str, str] | None = None) -> Ended:
    """Runs a load generator until it ends by itself. Raises ProcessError if it fails or overstays."""
    # RUSAGE_CHILDREN counts a child when it is reaped; between these two readings only this one is.
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with subprocess.Popen(
        argv,
        cwd=ROOT,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except BaseException as exc:  # Ctrl-C too: it must not outlive us
            process.kill()
            if isinstance(exc, subprocess.TimeoutExpired):
                raise ProcessError(f"{argv[0]} ran longer than {timeout_s:.0f} s") from exc
            raise
    if process.returncode != 0:
        said = stderr.decode(errors="replace")[-2_000:].strip()
        raise ProcessError(f"{' '.join(argv)}\n{said}", process.returncode)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Ended(stdout, cpu_s, time.monotonic() - started)


def exit_on_sigterm() -> None:
    """Makes SIGTERM unwind like Ctrl-C does, so that everything started is also stopped."""

    def unwind(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, unwind)
