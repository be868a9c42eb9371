"""HTTP load from wrk, a compiled generator in a separate process."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.processes import ProcessError, run_to_end

_SCRIPT = Path(__file__).with_suffix(".lua")


class Load(msgspec.Struct, frozen=True):
    """What wrk saw. Only answered requests count; `bad_status` is how many of them were 400 or above."""

    requests: int
    duration_us: int
    p50_us: int
    p99_us: int
    bad_status: int
    broken: int
    busy: float = 0.0

    @property
    def per_s(self) -> float:
        return (self.requests - self.bad_status) / (self.duration_us / 1e6)


@dataclass(frozen=True)
class Request:
    """The one request to send over and over."""

    method: str
    url: str
    token: str
    body: bytes = b""


def require() -> None:
    """Raises ProcessError with the command that installs wrk, if it is missing."""
    if shutil.which("wrk") is None:
        raise ProcessError("wrk, the load generator, is missing: apt-get install wrk")


def load(request: Request, connections: int, seconds: float) -> Load:
    """Sends the request over this many connections, each waiting for its answer, for this long.

    One thread: it makes over 100,000 requests a second; a second one would take a core from the server.
    `busy` is the share of one core that wrk used; near 1 it was the bottleneck.
    """
    with tempfile.NamedTemporaryFile() as body:
        body.write(request.body)
        body.flush()
        environment = {
            "METHOD": request.method,
            "TOKEN": request.token,
            "BODY_FILE": body.name if request.body else "",
        }
        duration = f"{max(1, round(seconds))}s"  # wrk takes whole seconds only
        argv = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{duration}",
            "--timeout",
            "10s",
            "-s",
            str(_SCRIPT),
            request.url,
        ]
        ended = run_to_end(argv, seconds + 30, environment)
    figures = msgspec.json.decode(ended.stdout.splitlines()[-1], type=Load)
    return msgspec.structs.replace(figures, busy=ended.cpu_s / (figures.duration_us / 1e6))
