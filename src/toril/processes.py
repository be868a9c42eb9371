"""Several processes behind one listening socket: starts them, starts them again, passes signals on.

Called by `toril serve --processes N`. Each child gets its number; the workers' concurrency is divided between
them by it, so a worker's `concurrency` and `limiter` mean the same whatever N is.
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
from types import FrameType

import structlog

log = structlog.get_logger(__name__)

SOCKET_VARIABLE = "TORIL_CHILD_SOCKET"
PARENT_VARIABLE = "TORIL_CHILD_PARENT"
NUMBER_VARIABLE = "TORIL_CHILD_NUMBER"
COUNT_VARIABLE = "TORIL_CHILD_COUNT"
FOLDER_VARIABLE = "TORIL_CHILD_FOLDER"

_TICK_S = 0.05
_LONGEST_PAUSE_S = 10.0
_STEADY_S = 30.0


class Child:
    """One of the processes, and what is known of how it fares."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.told_to_stop = False
        self.failures = 0
        self.start_at = 0.0


class Processes:
    """Runs `count` children that share one socket.

    Args:
        arguments: the command line of a child, without the interpreter.
    """

    def __init__(self, arguments: Sequence[str], sock: socket.socket, count: int) -> None:
        self._arguments = arguments
        self._sock = sock
        self._children = [Child(number) for number in range(count)]
        self._stopping = False
        # Nothing is ever written to it: a child that reads its end has lost its parent, even to `kill -9`.
        self._lifeline, self._alive = os.pipe()
        self._folder = ""

    def run(self) -> int:
        """Run until told to stop; the exit status: 0 when every child ended well."""
        # Where the children leave what they have measured, for whichever of them is asked.
        with tempfile.TemporaryDirectory(prefix="toril-", ignore_cleanup_errors=True) as self._folder:
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
                # One that had not come as far as to handle the signal had no work to finish either.
                return 0 if all(code in (0, -signal.SIGTERM, -signal.SIGINT) for code in codes) else 1
            time.sleep(_TICK_S)

    def _look_after(self, child: Child, now: float) -> None:
        if child.process is not None and child.process.poll() is not None and not self._stopping:
            child.failures = 0 if now - child.started_at > _STEADY_S else child.failures + 1
            pause_s = min(_LONGEST_PAUSE_S, 0.1 * 2**child.failures)
            log.error("process.ended", number=child.number, status=child.process.returncode, again_in_s=pause_s)
            child.process, child.start_at = None, now + pause_s
        if child.process is None and now >= child.start_at and not self._stopping:
            child.told_to_stop = False
            child.process = self._start(child.number)
            child.started_at = now
            self._catch_up(child.process, child)

    def _catch_up(self, process: subprocess.Popen[bytes], child: Child) -> None:
        """Stop a child that was being started when the signal came: there was no process to pass it on to."""
        if self._stopping and not child.told_to_stop:
            process.send_signal(signal.SIGTERM)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        descriptor = self._sock.fileno()
        environment = os.environ | {
            SOCKET_VARIABLE: str(descriptor),
            PARENT_VARIABLE: str(self._lifeline),
            NUMBER_VARIABLE: str(number),
            COUNT_VARIABLE: str(len(self._children)),
            FOLDER_VARIABLE: self._folder,
        }
        # A child that does not handle SIGHUP yet would end by it: it inherits the mask, and is sent it when it does.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            # A session of its own: Ctrl-C reaches the parent only, which passes it on once.
            return subprocess.Popen(  # noqa: S603 - our own interpreter and arguments
                [sys.executable, "-m", "toril", *self._arguments],
                env=environment,
                pass_fds=(descriptor, self._lifeline),
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
