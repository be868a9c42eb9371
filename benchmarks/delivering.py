"""How fast deliveries leave, and whether bad targets slow a good one down.

    python -m benchmarks.delivering rate --ledger sqlite --jobs 20000
    python -m benchmarks.delivering isolation --rounds 5

`rate`: deliveries per second to one target at concurrency 50, from a queue that is full. `isolation`: from posting an
envelope until the good target has it, with only that target at work and with one that hangs and one that refuses
beside it, in turn; the rounds of one run are compared with each other.
"""

from __future__ import annotations

import argparse
import http.client
import secrets
import socket
import statistics
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.endpoint import Endpoint
from benchmarks.processes import exit_on_sigterm
from benchmarks.servers import TORIL, start_target, start_valkey
from benchmarks.target import Target

CONCURRENCY = 50
_BATCH = 500
_STALLED_AFTER_S = 20.0
_encode = msgspec.json.Encoder().encode


class Calls:
    """The delivery door's routes over one connection."""

    def __init__(self, target: Target) -> None:
        parts = urllib.parse.urlsplit(target.url)
        self._headers = {"authorization": f"Bearer {target.token}", "content-type": "application/json"}
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=60)

    def __call__(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer that is no error."""
        self._connection.request(method, path, None if body is None else _encode(body), self._headers)
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:300]!r}")
        return msgspec.json.decode(text) if text else None


@contextmanager
def hanging() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def free_port() -> int:
    """A port without a server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(stack: ExitStack, targets: dict[str, Any], ledger: str) -> Target:
    """A toril with these targets and its own Valkey."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="toril-bench-")))
    url = f"sqlite:///{folder}/ledger.sqlite3" if ledger == "sqlite" else ledger
    (folder / "toril.yaml").write_text(msgspec.yaml.encode({"targets": targets, "ledger": {"url": url}}).decode())
    command = f"{TORIL} --config {folder}/toril.yaml"
    return start_target(stack, "toril", command, start_valkey(stack), secrets.token_hex(16))


def arrived(endpoint: Endpoint, count: int) -> int:
    """Wait until this many requests came, or until none has come for a while; how many did."""
    seen, moved_s = endpoint.stats().count, time.monotonic()
    while seen < count and time.monotonic() - moved_s < _STALLED_AFTER_S:
        time.sleep(0.05)
        latest = endpoint.stats().count
        if latest != seen:
            seen, moved_s = latest, time.monotonic()
    return seen


def rate(stack: ExitStack, jobs: int, ledger: str) -> None:
    """Fill the queue of a paused target, let it go, count at the endpoint."""
    endpoint = Endpoint()
    stack.callback(endpoint.stop)
    toril = start(stack, {"bench": {"url": endpoint.url("bench"), "concurrency": CONCURRENCY}}, ledger)
    calls = Calls(toril)
    calls("POST", "/targets/bench/pause")
    for first in range(0, jobs, _BATCH):
        envelopes = [{"target": "bench", "body": {"n": n}} for n in range(first, min(first + _BATCH, jobs))]
        calls("POST", "/enqueue/batch", envelopes)
    endpoint.reset()
    cpu_s = toril.cpu_s() or 0.0
    calls("POST", "/targets/bench/resume")
    count = arrived(endpoint, jobs)
    stats = endpoint.stats()
    cpu_us = ((toril.cpu_s() or 0.0) - cpu_s) / count * 1e6
    print(f"deliver, ledger {ledger.partition(':')[0]}, concurrency {CONCURRENCY}: ", end="")
    print(f"{stats.per_s:,.0f} per s, {cpu_us:,.0f} µs CPU each ({count} of {jobs} arrived)")


def isolation(stack: ExitStack, rounds: int, seconds: float, per_s: float, ledger: str) -> None:
    """Latencies of a good target, alone and beside two bad ones."""
    endpoint = Endpoint()
    stack.callback(endpoint.stop)
    targets = {
        "good": {"url": endpoint.url("good"), "concurrency": CONCURRENCY},
        "hanging": {"url": stack.enter_context(hanging()), "concurrency": CONCURRENCY, "timeout": {"total": "2s"}},
        "refusing": {"url": f"http://127.0.0.1:{free_port()}/", "concurrency": CONCURRENCY},
    }
    calls = Calls(start(stack, targets, ledger))
    for bad in ("hanging", "refusing"):
        calls("POST", f"/targets/{bad}/pause")
        for _ in range(4):
            calls("POST", "/enqueue/batch", [{"target": bad, "body": None}] * _BATCH)
    paced(calls, endpoint, 1.0, per_s)  # paths are warm before anything counts
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(paced(calls, endpoint, seconds, per_s))
        for bad in ("hanging", "refusing"):
            calls("POST", f"/targets/{bad}/resume")
        time.sleep(0.5)
        beside.append(paced(calls, endpoint, seconds, per_s))
        for bad in ("hanging", "refusing"):
            calls("POST", f"/targets/{bad}/pause")
        time.sleep(2.5)
    for name, found in (("alone", alone), ("beside two bad targets", beside)):
        p50, p99 = (statistics.median(run[index] for run in found) for index in (0, 1))
        print(f"good target, {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms (median of {rounds} rounds)")
    ratios = [bad[1] / good[1] for good, bad in zip(alone, beside, strict=True)]
    print(f"p99 beside / alone: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), goal ≤ 1.20")


def paced(calls: Calls, endpoint: Endpoint, seconds: float, per_s: float) -> tuple[float, float]:
    """p50 and p99, in milliseconds, of envelopes that are posted at an even pace."""
    endpoint.reset()
    jobs = round(seconds * per_s)
    next_s = time.monotonic()
    for _ in range(jobs):
        next_s += 1 / per_s
        time.sleep(max(0.0, next_s - time.monotonic()))
        calls("POST", "/enqueue", {"target": "good", "body": {"sent_us": time.monotonic_ns() // 1000}})
    if arrived(endpoint, jobs) < jobs:
        raise SystemExit("the good target did not get all of its deliveries")
    percentiles = statistics.quantiles(endpoint.latencies_us(), n=100, method="inclusive")
    return percentiles[49] / 1000, percentiles[98] / 1000


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delivering", description=__doc__)
    parser.add_argument("what", choices=("rate", "isolation"))
    parser.add_argument("--ledger", default="sqlite", help="sqlite, none, or a postgresql:// URL")
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long one round takes")
    parser.add_argument("--per-s", type=float, default=100.0, help="how many envelopes a second are posted")
    options = parser.parse_args()
    exit_on_sigterm()
    with ExitStack() as stack:
        if options.what == "rate":
            rate(stack, options.jobs, options.ledger)
        else:
            isolation(stack, options.rounds, options.seconds, options.per_s, options.ledger)
    return 0


if __name__ == "__main__":
    sys.exit(main())
