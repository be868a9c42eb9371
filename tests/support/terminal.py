"""A program in a pseudo-terminal, as a person sees and stops it."""

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.waiting import eventually


def _take_terminal() -> None:
    """As a shell does before a command: background jobs of scripts inherit that Ctrl-C is ignored."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """One command whose terminal this is. ``printed`` is all that it has written so far, colours included."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        self.printed = ""
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_take_terminal,  # noqa: PLW1509 - Ctrl-C reaches whose terminal it is
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @classmethod
    def of_toril(cls, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Self:
        """A ``toril`` command."""
        base = {"PATH": os.environ.get("PATH", ""), "HOME": "/tmp", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        return cls([sys.executable, "-m", "toril", *arguments], base | dict(env or {}), cwd)

    def _read(self) -> None:
        try:
            while part := os.read(self._ours, 65536):
                self.printed += part.decode(errors="replace")
        except OSError:
            pass  # Linux says so when the other end is closed

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until this has been printed so many times."""
        try:
            eventually(lambda: self.printed.count(text) >= count, timeout_s=30, what=f"{text!r} on the terminal")
        except AssertionError as exc:
            raise AssertionError(f"{exc}; it shows:\n{self.printed}") from None

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self._ours, text.encode())

    def press_ctrl_c(self) -> None:
        """Type Ctrl-C."""
        os.write(self._ours, b"\x03")

    def ended(self, timeout_s: float = 60.0) -> int:
        """Wait for its end; the exit status."""
        status = self._process.wait(timeout_s)
        self._reader.join()
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        os.close(self._ours)
