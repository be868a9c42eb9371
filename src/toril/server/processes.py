"""Several processes behind one port: starts them, restarts those that end, and passes signals on.

On Linux each listens on the port itself, and the kernel spreads new connections over those that listen (`SO_REUSEPORT`,
docs/decisions/0013); elsewhere they share the parent's socket.

Each child gets its number, by which the workers' concurrency is divided between them: a worker's `concurrency` and
`limiter` mean the same whatever the number of processes is.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import structlog

from toril.engine.load_board import lay_out
from toril.server.server import spreads

log = structlog.get_logger(__name__)

SOCKET_VARIABLE = "TORIL_CHILD_SOCKET"
PORT_VARIABLE = "TORIL_CHILD_PORT"
PARENT_VARIABLE = "TORIL_CHILD_PARENT"
NUMBER_VARIABLE = "TORIL_CHILD_NUMBER"
COUNT_VARIABLE = "TORIL_CHILD_COUNT"
FOLDER_VARIABLE = "TORIL_CHILD_FOLDER"

_TICK_S = 0.05
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_STEADY_S = 30.0

_ENDED_WELL = {0, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGINT}
"""Exit statuses of children that were told to stop. One that ended by the signal, or by Ctrl-C in the middle of its
start, had not begun to work yet."""


class Child:
    """One of the processes: what runs, how often it failed in a row, and when it is started again."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.told_to_stop = False
        self.failures = 0
        self.start_at = 0.0


class Processes:
    """Runs `count` children that serve one port.

    Args:
        arguments: the command line of a child, without the interpreter.
        sock: what the children listen on, or, where each has its own socket (`spreads`), what keeps the port for
            them.
        count: how many there are.
    """

    def __init__(self, arguments: Sequence[str], sock: socket.socket, count: int) -> None:
        self._arguments = arguments
        self._sock = sock
        self._children = [Child(number) for number in range(count)]
        self._stopping = False
        # Nothing is ever written to it: a child that reads its end has lost its parent, also after `kill -9`.
        self._lifeline, self._alive = os.pipe()
        self._folder = ""

    def run(self) -> int:
        """Run until told to stop, and return the exit status: 0 where every child ended well."""
        # The children leave their metrics here, so that any of them can answer for all, and tell each other of their
        # load.
        with tempfile.TemporaryDirectory(prefix="toril-", ignore_cleanup_errors=True) as self._folder:
            lay_out(Path(self._folder), len(self._children))
            return self._run()

    def _run(self) -> int:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._pass_on)
        while True:
            now = time.monotonic()
            for child in self._children:
                self._look_after(child, now)
            if self._stopping and all(
                child.process is None or child.process.poll() is not None for child in self._children
            ):
                codes = [child.process.returncode for child in self._children if child.process is not None]
                return 0 if all(code in _ENDED_WELL for code in codes) else 1
            time.sleep(_TICK_S)

    def _look_after(self, child: Child, now: float) -> None:
        if self._stopping:
            return
        if child.process is not None and child.process.poll() is not None:
            if now - child.started_at > _STEADY_S:
                child.failures = 0
            self._pause(child, now, f"exit status {child.process.returncode}")
            child.process = None
        if child.process is None and now >= child.start_at:
            child.told_to_stop = False
            try:
                child.process = self._start(child.number)
            except OSError as exc:  # no memory or no process left: that may pass
                self._pause(child, now, str(exc))
                return
            child.started_at = now
            self._catch_up(child.process, child)

    def _pause(self, child: Child, now: float, reason: str) -> None:
        child.failures += 1
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(child.failures, 10))
        child.start_at = now + pause_s
        log.error("process.ended", number=child.number, reason=reason, again_in_s=pause_s)

    def _catch_up(self, process: subprocess.Popen[bytes], child: Child) -> None:
        """Stop a child that was being started when the signal came, and so was not sent it."""
        if self._stopping and not child.told_to_stop:
            process.send_signal(signal.SIGTERM)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        if spreads():
            listens = {PORT_VARIABLE: str(self._sock.getsockname()[1])}
            passed: tuple[int, ...] = (self._lifeline,)
        else:
            listens = {SOCKET_VARIABLE: str(self._sock.fileno())}
            passed = (self._lifeline, self._sock.fileno())
        environment = (
            os.environ
            | listens
            | {
                PARENT_VARIABLE: str(self._lifeline),
                NUMBER_VARIABLE: str(number),
                COUNT_VARIABLE: str(len(self._children)),
                FOLDER_VARIABLE: self._folder,
            }
        )
        # SIGHUP ends a process that does not handle it yet. The child inherits the mask and unblocks it when it does.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            # In a new session, so that Ctrl-C reaches the parent alone, which passes it on once.
            return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                [sys.executable, "-m", "toril", *self._arguments],
                env=environment,
                pass_fds=passed,
                start_new_session=True,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        self._pass_on(number, frame)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.told_to_stop |= number != signal.SIGHUP
                child.process.send_signal(number)
