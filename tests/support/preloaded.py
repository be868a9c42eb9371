"""Starts torils and their commands from a process that has imported everything: a test run imports it once.

Importing takes 0.6 s of CPU, which is most of what a short test costs. The starter imports toril, serves nothing and
has no thread; for each start it forks, and the child takes the environment, folder and output that it was given and
runs ``python -m toril`` as the interpreter would. What the starter does not do: options of the interpreter, and
limits of the process; those tests start a whole Python (``TorilProcess(..., preloaded=False)``).
"""

import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LONGEST = 200_000
"""Bytes of one request: arguments and environment."""
_FORK_S = 60.0
_MODULES = (
    "toril.cli.main", "toril.cli.serve", "toril.asgi", "toril.web.application", "toril.telemetry.prometheus_exposition",
    "toril.server.server", "toril.server.processes", "toril.server.proxied_http",
    "uvicorn.protocols.websockets.websockets_sansio_impl", "importlib.resources.readers",
    "toril.cli.check_config", "toril.cli.completion", "toril.cli.migrate", "toril.cli.recover", "toril.cli.token",
    *(
        f"toril.cli.operate.{name}" for name in (
            "dead_letters", "doctor", "events", "groups", "jobs", "queues", "schedulers", "targets", "workers",
        )
    ),
)  # fmt: skip


class Preloaded:
    """A process that was started so; has what the tests use of `subprocess.Popen`."""

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._reading = threading.Lock()

    def __del__(self) -> None:
        os.close(self._status)  # not before: another thread may wait for it

    def poll(self) -> int | None:
        """Return its exit code, or minus the number of the signal that ended it; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the same when it has ended. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            ready, _, _ = select.select([self._status], [], [], timeout)
            if not ready:
                raise subprocess.TimeoutExpired("toril", timeout or 0)
            with self._reading:  # several threads may wait
                if self.returncode is None:
                    told = os.read(self._status, 100)
                    assert told, f"the starter of process {self.pid} has ended before it"
                    self.returncode = int(told)
        return self.returncode


class Starter:
    """The process that forks torils. It ends with the process that made it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._asking = threading.Lock()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LONGEST)
        ours.settimeout(_FORK_S)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-m", "tests.support.preloaded", str(theirs.fileno())],
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        assert self._socket.recv(10) == b"ready"

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, streams: Sequence[int]
    ) -> Preloaded:
        """Start ``python -m toril`` with these arguments; `streams` are its input, output and errors."""
        read, write = os.pipe()
        try:
            asked = {"arguments": list(arguments), "environment": dict(environment), "folder": str(folder)}
            with self._asking:
                socket.send_fds(self._socket, [json.dumps(asked).encode()], [*streams, write])
                return Preloaded(int(self._socket.recv(100)), read)
        finally:
            os.close(write)


def starter(environment: Mapping[str, str]) -> Starter:
    """Return the starter for processes with this environment."""
    return _starter(tuple(item for item in environment.items() if item[0].startswith(("PYTHON", "LD_", "LC_"))))


@functools.cache
def _starter(environment: tuple[tuple[str, str], ...]) -> Starter:
    """Return the starter of this process; one for each environment that the interpreter itself looks at."""
    return Starter(dict(environment))


def main(control: int) -> None:
    """Serve requests to fork, until the other end is closed. Returns in each child, which then is a toril."""
    for name in _MODULES:
        __import__(name)
    from toril.asgi import create_app  # noqa: PLC0415 - who starts torils need not import one
    from toril.config.loading import load  # noqa: PLC0415

    # Of an application that never runs, the patterns and scripts are kept, which each toril would make at its start.
    create_app(load({"REDIS_URL": "redis://127.0.0.1:1", "AUTH_TOKENS": "x"}))
    assert threading.active_count() == 1, "a process with threads cannot fork safely"
    gc.collect()
    gc.freeze()
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    statuses: dict[int, int] = {}
    with socket.socket(fileno=control) as asked:
        asked.send(b"ready")
        while True:
            ready, _, _ = select.select([asked, wake_read], [], [])
            if wake_read in ready:
                os.read(wake_read, 1000)
                _reap(statuses)
            if asked not in ready:
                continue
            message, descriptors, _, _ = socket.recv_fds(asked, _LONGEST, 4)
            if not message:
                os._exit(0)
            *streams, status = descriptors
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for descriptor in (wake_read, wake_write, status, *statuses.values()):
                    os.close(descriptor)
                _become(json.loads(message), streams)
                return
            for descriptor in streams:
                os.close(descriptor)
            statuses[pid] = status
            asked.send(str(pid).encode())


def _reap(statuses: dict[int, int]) -> None:
    while statuses:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        told = statuses.pop(pid)
        with suppress(BrokenPipeError):
            os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(told)


def _become(asked: Mapping[str, object], streams: Sequence[int]) -> None:
    """Make this process what `python -m toril` would be: session, folder, streams, environment, arguments."""
    os.setsid()
    os.chdir(str(asked["folder"]))
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    environment = asked["environment"]
    assert isinstance(environment, dict)
    os.environ.update(environment)
    time.tzset()
    sys.path[0] = os.getcwd()
    arguments = asked["arguments"]
    assert isinstance(arguments, list)
    sys.argv = ["toril", *arguments]


if __name__ == "__main__":
    main(int(sys.argv[1]))
    runpy.run_module("toril", run_name="__main__", alter_sys=True)
