"""Measures async proxies that take proxq's configuration: accepting, finishing, a lone request, passing through.

    python -m benchmarks.proxy [--seconds 5] [--rounds 3] [--start 'NAME=COMMAND']...

A target is a command that serves proxq's configuration file: `{config}` is its path, which says where to listen; by
default toril itself. Each has a separate database of one embedded Valkey. Beside the figures stand what this machine
can do at best in the same round: a raw ASGI app, an HTTP client alone, and the upstream asked directly.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import payload, wrk
from benchmarks.endpoint import Endpoint
from benchmarks.processes import Child, ProcessError, exit_on_sigterm, module, run_to_end
from benchmarks.procfs import cpu_s, threads
from benchmarks.servers import RAW, STARLETTE, start_asgi, start_jobs, start_relay, start_valkey, toril_gathers_writes
from benchmarks.streams import StreamServer

TORIL = "{python} -m toril serve --processes 1 --config {config}"
_CONCURRENCY = 100
_MB = 2**20
_QUIET_S = 60.0

_CONFIG = """\
listenAddress: "127.0.0.1:{port}"
redis:
  addr: "{redis}"
  db: {db}
concurrency: {concurrency}
taskRetention: "10m"
upstreams:
  - prefix: "/queued"
    url: "{endpoint}"
  - prefix: "/slow"
    url: "{streams}/slow"
  - prefix: "/direct"
    url: "{streams}"
    pathFilter:
      patterns: ["^/direct"]
"""


@dataclass(frozen=True)
class Target:
    """A running proxy."""

    name: str
    port: int
    pid: int

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


def accept(target: Target, endpoint: Endpoint, seconds: float) -> tuple[float, float, float]:
    """Requests accepted a second over 32 connections, those that finish meanwhile, and the server's CPU µs for each."""
    endpoint.reset()
    before = cpu_s(target.pid)
    seen = _submit(target, seconds)
    used_s = cpu_s(target.pid) - before
    finished = endpoint.stats().count / (seen.duration_us / 1e6)
    _settled(endpoint, seen.requests)
    return seen.per_s, finished, used_s / seen.requests * 1e6


def finish(target: Target, endpoint: Endpoint, seconds: float) -> tuple[float, float, float]:
    """Requests finished a second at concurrency 100 alone, CPU µs for each, and those of accepting each.

    The upstream stands still while they are accepted, so that none is finished before.
    """
    endpoint.reset()
    with _stopped(endpoint.pid):
        before = cpu_s(target.pid)
        seen = _submit(target, seconds)
        accepting_s = cpu_s(target.pid) - before
    before = cpu_s(target.pid)
    _settled(endpoint, seen.requests)
    used_s = cpu_s(target.pid) - before
    return endpoint.stats().per_s, used_s / seen.requests * 1e6, accepting_s / seen.requests * 1e6


def _submit(target: Target, seconds: float) -> wrk.Load:
    seen = wrk.load(wrk.Request("POST", target.url("/queued/x"), "t", payload.jobs(1)), 32, seconds)
    _all_accepted(seen)
    return seen


def lone(target: Target, endpoint: Endpoint, seconds: float) -> list[float]:
    """Milliseconds from a lone request's 202 to its arrival at the upstream, twenty a second."""
    endpoint.reset()
    connection = HTTPConnection("127.0.0.1", target.port, timeout=10)
    sent_us, accepted_us = [], []
    for _ in range(max(20, round(seconds * 20))):
        sent_us.append(time.monotonic_ns() // 1000)
        connection.request("POST", "/queued/x", b'{"sent_us":%d}' % sent_us[-1], {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        accepted_us.append(time.monotonic_ns() // 1000)
        if answer.status != 202:
            raise ProcessError(f"{target.name} answered {answer.status}")
        time.sleep(0.05)
    connection.close()
    _settled(endpoint, len(sent_us))
    took_us = endpoint.latencies_us()
    return [(sent + took - there) / 1e3 for sent, took, there in zip(sent_us, took_us, accepted_us, strict=True)]


def slow(target: Target, seconds: float) -> tuple[float, float]:
    """A hundred calls in flight that the upstream answers after so many seconds: the threads that the target has more,
    and how much of a core it uses meanwhile, in percent.
    """
    before = threads(target.pid)

    def asked(method: str, path: str, body: bytes | None = None) -> dict[str, str]:
        connection = HTTPConnection("127.0.0.1", target.port, timeout=10)
        connection.request(method, path, body)
        answer: dict[str, str] = msgspec.json.decode(connection.getresponse().read())
        connection.close()
        return answer

    ids = [asked("POST", f"/slow/{seconds:g}", b"x")["jobId"] for _ in range(_CONCURRENCY)]

    def wait_for(status: str, within_s: float) -> None:
        until = time.monotonic() + within_s
        while left := [one for one in ids if asked("GET", f"/__jobs/{one}")["status"] != status]:
            if time.monotonic() > until:
                raise ProcessError(f"{len(left)} of {len(ids)} slow calls are not {status}")
            time.sleep(0.1)

    wait_for("running", 10)
    began, used_s, most = time.monotonic(), cpu_s(target.pid), 0
    while (held_s := time.monotonic() - began) < seconds * 0.8:
        most = max(most, threads(target.pid))
        time.sleep(1)
    used_s = cpu_s(target.pid) - used_s
    wait_for("completed", seconds + 30)
    return most - before, used_s / held_s * 100


def download(port: int, path: str, size: int) -> float:
    """MB a second of one large answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(f"GET {path}/{size} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        began, got, buffer = time.perf_counter(), 0, bytearray(2**18)
        while got < size:
            count = sock.recv_into(buffer)
            if not count:
                raise ProcessError(f"only {got} of {size} bytes came")
            got += count
        return got / _MB / (time.perf_counter() - began)


def upload(port: int, path: str, size: int) -> float:
    """MB a second of one large request."""
    piece = bytes(2**18)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode())
        began = time.perf_counter()
        for _ in range(size // len(piece)):
            sock.sendall(piece)
        if not sock.recv(65_536).startswith(b"HTTP/1.1 200"):
            raise ProcessError("the upload was not answered with 200")
        return size / _MB / (time.perf_counter() - began)


def round_trips(port: int, path: str, seconds: float) -> list[float]:
    """Milliseconds of small requests, one after another on one connection."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    took = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        connection.request("GET", f"{path}/2")
        connection.getresponse().read()
        took.append((time.perf_counter() - began) * 1e3)
    connection.close()
    return took


def small(port: int, path: str, seconds: float) -> float:
    """Small requests a second over 32 connections."""
    seen = wrk.load(wrk.Request("GET", f"http://127.0.0.1:{port}{path}/2", "t"), 32, seconds)
    _all_accepted(seen)
    return seen.per_s


def _all_accepted(seen: wrk.Load) -> None:
    if seen.bad_status or seen.broken:
        raise ProcessError(f"{seen.bad_status} answers were 400 or above, {seen.broken} requests broke")


def _settled(endpoint: Endpoint, expected: int) -> None:
    """Wait until everything that was accepted has arrived. Raises ProcessError when it stands still before."""
    seen, moved = -1, time.monotonic()
    while seen < expected:
        now = endpoint.stats().count
        if now != seen:
            seen, moved = now, time.monotonic()
        elif time.monotonic() - moved > _QUIET_S:
            raise ProcessError(f"{seen} of {expected} accepted requests arrived, and no more come")
        time.sleep(0.02)


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def client_alone(endpoint: Endpoint, seconds: float) -> float:
    """What toril's HTTP client posts a second with 100 in flight and no queue behind it."""
    argv = module("ceiling_client", "--client", "toril", "--url", endpoint.url("x"), "--seconds", str(seconds))
    return float(msgspec.json.decode(run_to_end(argv, seconds + 30).stdout)["per_s"])


def start(stack: ExitStack, name: str, command: str, db: int, redis: str, urls: tuple[str, str]) -> Target:
    """Start a target with its own configuration."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    endpoint, streams = urls
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    config = folder / "proxq.yaml"
    config.write_text(
        _CONFIG.format(port=port, redis=redis, db=db, concurrency=_CONCURRENCY, endpoint=endpoint, streams=streams)
    )
    argv = [part.format(python=sys.executable, config=config) for part in shlex.split(command)]
    child = stack.enter_context(Child(name, argv, {"PROXQ_CONFIG": str(config)}))
    until = time.monotonic() + 30
    while not _answers(port):
        if not child.alive() or time.monotonic() > until:
            raise ProcessError(f"{name} does not answer:\n{child.said()}")
        time.sleep(0.1)
    return Target(name, port, child.pid)


def _answers(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/direct/2")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class Table:
    """Figures by what and whom, a list of rounds each."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[float]] = {}

    def note(self, what: str, who: str, value: float) -> None:
        self._rows.setdefault((what, who), []).append(value)

    def value(self, what: str, who: str) -> float:
        return statistics.median(self._rows[what, who])

    def ratio(self, what: str, who: str, ceiling: str) -> float:
        pairs = zip(self._rows[what, who], self._rows[what, ceiling], strict=True)
        return statistics.median([ours / theirs for ours, theirs in pairs])

    def document(self) -> object:
        """Return every figure of every round, ready for JSON: by what was measured, and of whom."""
        found: dict[str, dict[str, Any]] = {}
        for (what, who), values in self._rows.items():
            found.setdefault(what, {"ceilings": _CEILINGS.get(what, ()), "rounds": {}})["rounds"][who] = values
        return found

    def show(self) -> None:
        for what, who in self._rows:
            values, ceilings = self._rows[what, who], _CEILINGS.get(what, ())
            ratios = [f"{self.ratio(what, who, ceiling):.2f} of {ceiling}" for ceiling in ceilings]
            beside = "" if who in ceilings or not ratios else f"   {'; '.join(ratios)}"
            print(f"{what:42} {who:14} {self.value(what, who):>10,.2f} ({min(values):,.2f}-{max(values):,.2f}){beside}")


_ACCEPT = "accepted/s, 32 connections"
_MEANWHILE = "finished/s meanwhile"
_FINISH = "finished/s, concurrency 100"
_BOTH_US, _ACCEPT_US, _FINISH_US = "CPU µs to accept, finishing", "CPU µs to accept, alone", "CPU µs to finish, alone"
_LONE = "202 to upstream, ms"
_THREADS, _CPU = "100 slow calls in flight, threads more", "100 slow calls in flight, % of a core"
_DOWN, _UP = "passed through, download MB/s", "passed through, upload MB/s"
_SMALL, _TRIP = "passed through, requests/s, 32 connections", "passed through, one at a time, ms p50"
_DIRECT, _RELAYED = "direct", "bytes relayed"
_CEILINGS = {
    _ACCEPT: (RAW, STARLETTE),
    _FINISH: ("client alone",),
    _DOWN: (_DIRECT, _RELAYED),
    _UP: (_DIRECT, _RELAYED),
    _SMALL: (_DIRECT, _RELAYED),
    _TRIP: (_DIRECT, _RELAYED),
}


def measure(arguments: argparse.Namespace, stack: ExitStack) -> Table:
    """All rounds of all targets."""
    endpoint = Endpoint()
    stack.callback(endpoint.stop)
    streams = StreamServer()
    stack.callback(streams.stop)
    redis = start_valkey(stack).removeprefix("redis://").partition("/")[0]
    urls = endpoint.url("").rstrip("/"), streams.url
    commands = [given.partition("=")[::2] for given in arguments.start or [f"toril={TORIL}"]]
    targets = [start(stack, name, command, number, redis, urls) for number, (name, command) in enumerate(commands)]
    accepting = [start_asgi(stack, RAW, *(["--gathered"] if toril_gathers_writes() else []))]
    accepting += [start_jobs(stack, STARLETTE, f"redis://{redis}/{len(targets)}", "--starlette")]
    relayed = start_relay(stack, _RELAYED, streams.port)
    table, seconds, size = Table(), arguments.seconds, arguments.megabytes * _MB
    for number in range(arguments.rounds):
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
        for ceiling in accepting:
            before = cpu_s(ceiling.pid or 0)
            seen = wrk.load(wrk.Request("POST", f"{ceiling.url}/queued/x", "t", payload.jobs(1)), 32, seconds)
            _all_accepted(seen)
            table.note(_ACCEPT, ceiling.name, seen.per_s)
            table.note(_ACCEPT_US, ceiling.name, (cpu_s(ceiling.pid or 0) - before) / seen.requests * 1e6)
        table.note(_FINISH, "client alone", client_alone(endpoint, seconds))
        ways = [(_DIRECT, streams.port, ""), (_RELAYED, int(relayed.url.rpartition(":")[2]), "")]
        for who, port, path in (*ways, *((t.name, t.port, "/direct") for t in targets)):
            table.note(_DOWN, who, download(port, path, size))
            table.note(_UP, who, upload(port, path or "/", size))
            table.note(_SMALL, who, small(port, path, seconds))
            table.note(_TRIP, who, statistics.median(round_trips(port, path, seconds)))
        for target in targets if arguments.hold else ():
            for what, value in zip((_THREADS, _CPU), slow(target, arguments.hold), strict=True):
                table.note(what, target.name, value)
        for target in targets:
            waits = lone(target, endpoint, seconds)
            table.note(f"{_LONE} p50", target.name, statistics.median(waits))
            table.note(f"{_LONE} p99", target.name, _percentile(waits, 0.99))
            for what, value in zip((_ACCEPT, _MEANWHILE, _BOTH_US), accept(target, endpoint, seconds), strict=True):
                table.note(what, target.name, value)
            for what, value in zip((_FINISH, _FINISH_US, _ACCEPT_US), finish(target, endpoint, seconds), strict=True):
                table.note(what, target.name, value)
    return table


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proxy", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=512, help="of each large body")
    parser.add_argument("--hold", type=float, default=30, help="seconds that slow calls take; 0 leaves them out")
    parser.add_argument("--start", action="append", metavar="NAME=COMMAND", help="a target; {config} is filled in")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every figure of every round")
    arguments = parser.parse_args()
    exit_on_sigterm()
    try:
        wrk.require()
        with ExitStack() as stack:
            table = measure(arguments, stack)
        table.show()
        if arguments.json is not None:
            arguments.json.write_bytes(msgspec.json.encode(table.document()))
    except ProcessError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
