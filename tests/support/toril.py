"""A toril in a separate process, which does what ``python -m toril serve`` does."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx

from tests.support.gateway import PLAIN, TOKEN, Gateway
from tests.support.ports import free_port
from tests.support.preloaded import Preloaded, starter
from tests.support.processes import Family, children
from tests.support.waiting import eventually

# A server that logs one of these has a bug, whatever else the test looks at.
_COMPLAINTS = re.compile(
    r"was never retrieved|was never awaited|Exception in ASGI application|ASGI callable returned without"
    r"|Resetting connection with an active transaction"
    r"|Fatal error on transport|Task was destroyed but it is pending|SyntaxError|Unhandled exception"
)


@dataclass(frozen=True)
class Exit:
    """How a process ended: its exit code and how long that took from the signal on."""

    code: int
    took_s: float


class TorilProcess:
    """One ``toril serve`` (or another ``command``), whose descendants go when it goes.

    ``env`` adds to (or, with None, takes from) a clean environment: ``REDIS_URL``, ``AUTH_TOKENS`` and
    JSON logs. Everything it prints is in ``log_path``; its working folder is the one of that, or ``cwd``. It may
    have so many file ``descriptors``, and cannot raise that.
    """

    def __init__(
        self,
        redis_url: str,
        log_path: Path,
        *,
        env: Mapping[str, str | None] | None = None,
        args: Sequence[str] = (),
        port: int | None = None,
        cwd: Path | None = None,
        descriptors: int | None = None,
        preloaded: bool = True,
        command: Sequence[str] = ("serve", "--host", "127.0.0.1", "--processes", "1"),
    ) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = log_path
        self._cwd = cwd or log_path.parent
        self._cwd.mkdir(exist_ok=True)
        self.gateway = Gateway(self.url)
        base = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": os.environ.get("HOME", "/"),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),  # that of a copy of the source, if a copy is tested
            "PYTHONUNBUFFERED": "1",
            "REDIS_URL": redis_url,
            "AUTH_TOKENS": TOKEN,
            "TORIL_LOG_FORMAT": "json",
            # On a busy machine a healthy Redis may take longer than the default: tests of that limit set it themselves.
            "TORIL_REDIS_COMMAND_TIMEOUT": "10s",
            # No balancer is in front of it, and hundreds of them are ended.
            "TORIL_SHUTDOWN_DELAY": "0",
        }
        self._env = {name: value for name, value in (base | dict(env or {})).items() if value is not None}
        self._arguments = [*command, "--port", str(self.port), *args]
        self._command = [sys.executable, "-m", "toril", *self._arguments]
        linux = sys.platform == "linux"
        own_path = os.environ.get("PYTHONPATH", "") == self._env.get("PYTHONPATH", "")
        self._starter = starter(self._env) if preloaded and linux and own_path and descriptors is None else None
        if descriptors is not None:
            self._command = ["/bin/sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh", *self._command]
        self._process: subprocess.Popen[bytes] | Preloaded | None = None
        self._family = Family()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def client(self) -> httpx.Client:
        """A bare HTTP client that carries the API token."""
        return self.gateway.http

    @property
    def pid(self) -> int:
        """The process id of the (main) process."""
        assert self._process is not None, "toril is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the main process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self, wait_for: str = "/ready", timeout_s: float = 60.0) -> Self:
        """Start it and wait until ``GET wait_for`` answers 200."""
        with self.log_path.open("ab") as log:
            if self._starter is not None:
                with Path(os.devnull).open("rb") as nothing:
                    streams = [nothing.fileno(), log.fileno(), log.fileno()]
                    self._process = self._starter.start(self._arguments, self._env, self._cwd, streams)
            else:
                self._process = subprocess.Popen(
                    self._command,
                    env=self._env,
                    cwd=self._cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        try:
            eventually(lambda: self._answers(wait_for), timeout_s=timeout_s, what=f"toril's {wait_for}")
        except AssertionError as exc:
            self.close()
            raise AssertionError(f"{exc}\n--- log ---\n{self.log()}") from None
        self._family.look(self.pid)
        return self

    def status(self, path: str) -> int:
        """The status of a GET without a token; 0 without an answer."""
        try:
            return httpx.get(self.url + path, timeout=5, trust_env=False, verify=PLAIN).status_code
        except httpx.TransportError:
            return 0

    def reasons(self) -> list[str]:
        """Why it is not ready."""
        found: list[str] = self.client.get("/ready").json()["reasons"]
        return found

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the main process."""
        self._family.look(self.pid)
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 60.0) -> Exit:
        """Wait for the end of the main process."""
        assert self._process is not None
        began = time.monotonic()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"toril did not end within {timeout_s:g} s\n{self.log()}") from None
        return Exit(code, time.monotonic() - began)

    def terminate(self, timeout_s: float = 60.0) -> Exit:
        """SIGTERM, and wait."""
        self.send(signal.SIGTERM)
        return self.wait(timeout_s)

    def interrupt(self, timeout_s: float = 60.0) -> Exit:
        """Ctrl-C as a terminal does it: SIGINT to the whole process group; and wait."""
        self._family.look(self.pid)
        os.killpg(self.pid, signal.SIGINT)
        return self.wait(timeout_s)

    def children(self) -> list[int]:
        """The ids of the processes that the main process started and that run now."""
        return children(self.pid)

    def kill(self) -> None:
        """SIGKILL to it and all its descendants, and reap it."""
        self._signal_all(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)

    def survivors(self) -> list[int]:
        """Descendants that still run, also when the main process has ended."""
        return self._family.alive()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It and all its descendants stand still (SIGSTOP) inside the block."""
        self._signal_all(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        """End whatever is left, at once."""
        self.gateway.close()
        self._signal_all(signal.SIGCONT)
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self._signal_all(signal.SIGKILL)

    def log(self) -> str:
        """Everything it has printed."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def complaints(self) -> list[str]:
        """Log lines that no healthy server prints."""
        return [line for line in self.log().splitlines() if _COMPLAINTS.search(line)]

    def _answers(self, path: str) -> bool:
        if not self.running:
            raise AssertionError(f"toril ended at start with {self._process and self._process.returncode}")
        return self.status(path) == 200

    def _signal_all(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._family.look(self._process.pid)
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)
        self._family.send(number)


StartToril = Callable[..., TorilProcess]
