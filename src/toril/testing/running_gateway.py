"""A `toril dev` in a separate process, and a queue on it, for tests of programs that use toril.

Needs nothing but the standard library: pytest loads it in every project that has toril installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH")
"""The variables that it gets of the environment. A developer's `REDIS_URL` or `AUTH_TOKENS` is not among them."""
_START_S = 30.0
_END_S = 20.0
_CALL_S = 30.0
_LOOK_S = 0.02
_ENDED = ("completed", "failed")
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class CallRefused(Exception):
    """The gateway has answered with another status than 2xx."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class RunningGateway:
    """A gateway with an embedded store, for as long as a `with` block or until `stop`.

    `url` is where its API is, and `token` may do everything there. It has a target `inspector`, and answers anything
    below `/inspect` (`inspector_url`).

    Args:
        folder: an empty folder for its data and its log.
        config: the text of a configuration file, as for `toril dev`; `$TORIL_URL` in it stands for its own address.
    """

    def __init__(self, folder: Path, config: str = "") -> None:
        self._folder = folder
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self.url = ""
        self.token = ""

    def __enter__(self) -> RunningGateway:
        """Start it."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def start(self) -> None:
        """Start it, and wait until it works.

        Raises:
            RuntimeError: it does not start; the text has what it printed.
        """
        data, port = self._folder / "toril-data", _free_port()
        command = [sys.executable, "-m", "toril", "dev", "--port", str(port), "--data", str(data)]
        if self._config:
            file = self._folder / "toril.yaml"
            file.write_text(self._config.replace("$TORIL_URL", f"http://127.0.0.1:{port}"))
            command += ["--config", str(file)]
        env = {name: os.environ[name] for name in _KEPT if name in os.environ} | {"TORIL_LOG_LEVEL": "warning"}
        self._log = (self._folder / "toril.log").open("wb")
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            command, env=env, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            start_new_session=True,
        )  # fmt: skip
        until = time.monotonic() + _START_S
        while not self._is_up(data):
            if self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError(f"toril does not start:\n{self.log()}")
            time.sleep(_LOOK_S)

    def _is_up(self, data: Path) -> bool:
        with contextlib.suppress(OSError, CallRefused):
            self.url, self.token = (data / "url").read_text(), (data / "token").read_text()
            if self.url:
                self.call("GET", "/ready")
                return True
        return False

    def stop(self) -> None:
        """Let jobs in flight end, and stop it. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                pass
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # it, and its store
                process.wait()
        if self._log is not None:
            self._log.close()

    def log(self) -> str:
        """Return what it has printed."""
        return (self._folder / "toril.log").read_text(errors="replace")

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Make a request with the token; the body, and the answer, are JSON. Returns None where there is no JSON.

        Raises:
            CallRefused: the answer is no 2xx.
        """
        return self._ask(method, self.url + path, body)

    def _ask(self, method: str, url: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - our own URL
        try:
            with _direct.open(request, timeout=_CALL_S) as answer:
                is_json = answer.headers.get_content_type().endswith("json")
                return json.loads(answer.read()) if is_json else None
        except urllib.error.HTTPError as exc:
            with exc:
                raise CallRefused(exc.code, exc.read().decode(errors="replace")) from None

    def wait_for(self, name: str, count: int = 1, timeout_s: float = 10.0) -> list[dict[str, Any]]:
        """Wait until so many requests have come to this URL of the inspector, and return them, the oldest first.

        Raises:
            TimeoutError: there were fewer.
        """
        until = time.monotonic() + timeout_s
        while len(found := self.inspected(name)) < count:
            if time.monotonic() > until:
                raise TimeoutError(f"after {timeout_s:g} s, {len(found)} of {count} requests have come to {name}")
            time.sleep(_LOOK_S)
        return found

    def inspector_url(self, name: str) -> str:
        """Return a URL that answers anything: for a worker, an upstream or a target without a server."""
        return f"{self._origin()}/inspect/{quote(name, safe='')}"

    def inspected(self, name: str) -> list[dict[str, Any]]:
        """Return the last requests that came to this URL, the oldest first."""
        answer = self._ask("GET", f"{self._origin()}/inspect?limit=500&name={quote(name, safe='')}", None)
        found: list[dict[str, Any]] = answer["requests"]
        return found[::-1]

    def _origin(self) -> str:
        """Return its address without the path of its API, which is below another one where there are upstreams."""
        return "/".join(self.url.split("/")[:3])

    def queue(self, name: str) -> FreshQueue:
        """Return a queue of this gateway."""
        return FreshQueue(self, name)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


class FreshQueue:
    """A queue that only one test uses. `str` is its name."""

    def __init__(self, gateway: RunningGateway, name: str) -> None:
        self.gateway = gateway
        self.name = name
        self._path = f"/queues/{quote(name, safe='')}"

    def __str__(self) -> str:
        """Return its name."""
        return self.name

    def add(self, name: str, data: Any = None, **opts: Any) -> str:
        """Add a job, and return its id. `opts` are BullMQ's, such as `attempts` and `delay`."""
        (added,) = self.gateway.call("POST", f"{self._path}/jobs", [{"name": name, "data": data, "opts": opts}])
        job_id: str = added["id"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        """Return a job as BullMQ's JSON."""
        found: dict[str, Any] = self.gateway.call("GET", f"{self._path}/jobs/{quote(job_id, safe='')}")
        return found

    def register(self, url: str, **opts: Any) -> None:
        """Let an endpoint work on the queue. `opts` are the worker's, such as `concurrency`."""
        endpoint = {"url": url, "method": "POST"}
        self.gateway.call("POST", "/workers", {"queue": self.name, "endpoint": endpoint, "opts": opts})

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        try:
            found: dict[str, int] = self.gateway.call("GET", self._path)["counts"]
        except CallRefused as exc:
            if exc.status != 404:
                raise
            return dict.fromkeys(_ENDED, 0)  # nothing was ever added to it
        return found

    def drain(self, timeout_s: float = 10.0) -> dict[str, int]:
        """Wait until no job waits, runs or is delayed, and return how many have `completed` and `failed`.

        Raises:
            TimeoutError: some are left; the text says in which state.
        """
        until = time.monotonic() + timeout_s
        while True:
            counts = self.counts()
            left = {state: count for state, count in counts.items() if count and state not in _ENDED}
            if not left:
                return {state: counts[state] for state in _ENDED}
            if time.monotonic() > until:
                raise TimeoutError(f"after {timeout_s:g} s the queue {self.name} is not empty: {left}")
            time.sleep(_LOOK_S)

    def remove(self) -> None:
        """Remove its worker, if there is one, and all its jobs."""
        for method, path, body in (
            ("DELETE", f"/workers/{quote(self.name, safe='')}", None),
            ("POST", f"{self._path}/obliterate", {"force": True}),
        ):
            try:
                self.gateway.call(method, path, body)
            except CallRefused as exc:
                if exc.status != 404:
                    raise
