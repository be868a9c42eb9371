"""Measures toril's WebSockets on an embedded Valkey: commands, work, event fan-out, memory of idle sockets.

    python -m benchmarks.sockets [--seconds 5] [--rounds 3] [--listeners 1000] [--idle 10000]

The load comes from this process, by `benchmarks.frames`, and the server is another one; the worker is a program in C
(`socket_worker.c`), because one in Python would take as much of a core as the server. Beside the work figure stands
its ceiling: BullMQ's own settle-and-lease script, called bare.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlsplit

import httpx

from benchmarks.compiling import built
from benchmarks.frames import FrameClient, frame
from benchmarks.processes import Child, ProcessError, exit_on_sigterm
from benchmarks.procfs import cpu_s, pss_kb
from benchmarks.servers import TORIL, start_target, start_valkey
from benchmarks.target import Target

_TOKEN = "bench-token"
_IN_FLIGHT = 64
_CONCURRENCY = 100
_ADDED = 100_000


class Bench:
    """One toril and how to reach it."""

    def __init__(self, target: Target, token: str = _TOKEN) -> None:
        self.target = target
        self._token = token
        self.port = urlsplit(target.url).port or 0
        self.http = httpx.Client(
            base_url=target.url, headers={"authorization": f"Bearer {token}"}, timeout=30, trust_env=False
        )

    def open(self, path: str) -> FrameClient:
        return FrameClient(self.port, path, self._token)

    def cpu_s(self) -> float:
        assert self.target.pid is not None
        return cpu_s(self.target.pid)

    def memory_kb(self) -> int:
        assert self.target.pid is not None
        return pss_kb(self.target.pid)


def commands(bench: Bench, fn: str, args: str, seconds: float) -> tuple[float, float]:
    """Commands a second over one socket with 64 in flight, and the server's CPU seconds for each."""
    one = frame(b'{"id":1,"data":{"fn":"%b","args":%b}}' % (fn.encode(), args.encode()))
    client = bench.open("/ws/queues/bench-commands")
    client.send(one * _IN_FLIGHT)
    began, before, done = time.perf_counter(), bench.cpu_s(), 0
    while time.perf_counter() - began < seconds:
        count = sum(1 for _ in client.receive())
        client.send(one * count)
        done += count
    took_s = time.perf_counter() - began
    rate = done / took_s, (bench.cpu_s() - before) / done
    client.close()
    return rate


def work(bench: Bench, jobs: int) -> tuple[float, float]:
    """Jobs a second through one socket at concurrency 100."""
    queue = f"bench-work-{time.time_ns()}"
    batch = [{"name": "n", "data": {"n": 1}}] * 1000
    for _ in range(jobs // 1000):
        bench.http.post(f"/queues/{queue}/jobs", json=batch).raise_for_status()
    path = f"/ws/queues/{queue}/process/{_CONCURRENCY}"
    before = bench.cpu_s()
    command = [str(built("socket_worker")), str(bench.port), path, _TOKEN, str(jobs)]
    worker = Child("socket_worker", command, speaks=True)
    try:
        took_us = worker.first_line()
        if not took_us.isdecimal():
            raise ProcessError(f"the worker ended early: {worker.said()}")
        cost_s = (bench.cpu_s() - before) / jobs
        _completed(bench, queue, jobs)
    finally:
        worker.stop()
    return jobs / (int(took_us) / 1e6), cost_s


def _completed(bench: Bench, queue: str, jobs: int) -> None:
    """Wait until the last answers are in Redis: all jobs have completed, and none twice."""
    deadline = time.monotonic() + 10
    while (counts := bench.http.get(f"/queues/{queue}/jobs").json()["counts"])["completed"] != jobs:
        if time.monotonic() > deadline:
            raise ProcessError(f"of {jobs} jobs that were answered there are {counts}")


def settling(redis_url: str, jobs: int) -> tuple[float, float]:
    """Jobs a second, and Redis' CPU seconds for each, when BullMQ's script settles and leases them, called bare."""
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.ceiling_script", "settle", "--redis", redis_url,
            "--queue", f"bench-bare-{time.time_ns()}", "--jobs", str(jobs), "--depth", str(_CONCURRENCY),
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    return answer["per_s"], answer["store_us"] / 1e6


def fan_out(bench: Bench, listeners: int, events: int) -> tuple[float, float]:
    """Event deliveries a second, to so many listeners of one queue."""
    queue = f"bench-events-{time.time_ns()}"
    clients = [bench.open(f"/ws/queues/{queue}/events?events=added") for _ in range(listeners)]
    began, before = time.perf_counter(), bench.cpu_s()
    bench.http.post(f"/queues/{queue}/jobs", json=[{"name": "n", "data": 1}] * events).raise_for_status()
    for client in clients:
        seen = 0
        while seen < events:
            seen += sum(1 for _ in client.receive())
    took_s = time.perf_counter() - began
    total = listeners * events
    rate = total / took_s, (bench.cpu_s() - before) / total
    for client in clients:
        client.close()
    return rate


def idle(bench: Bench, count: int, path: str) -> tuple[float, float]:
    """Memory of one idle socket in KB, and what all of them take of one CPU (0 to 1)."""
    before = bench.memory_kb()
    clients = [bench.open(path) for _ in range(count)]
    time.sleep(2)
    per_socket = (bench.memory_kb() - before) / count
    began, cpu = time.perf_counter(), bench.cpu_s()
    time.sleep(10)
    share = (bench.cpu_s() - cpu) / (time.perf_counter() - began)
    for client in clients:
        client.close()
    time.sleep(2)
    return per_socket, share


def allow_sockets() -> None:
    """Let this process have as many sockets as the system allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def median(measure: Callable[[], tuple[float, float]], rounds: int) -> tuple[float, float]:
    found = [measure() for _ in range(rounds)]
    return statistics.median(rate for rate, _ in found), statistics.median(cost for _, cost in found)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sockets", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--listeners", type=int, default=1000)
    parser.add_argument("--idle", type=int, default=10_000)
    arguments = parser.parse_args()
    exit_on_sigterm()
    allow_sockets()
    with ExitStack() as stack:
        redis_url = start_valkey(stack)
        bench = Bench(start_target(stack, "toril", TORIL, f"{redis_url}/0", _TOKEN))
        for name, fn, args in (("add", "add", '["n",{"n":1},null]'), ("getJobCounts", "getJobCounts", "[]")):
            rate, cost_s = median(
                lambda fn=fn, args=args: commands(bench, fn, args, arguments.seconds), arguments.rounds
            )
            print(
                f"commands: {name}, {_IN_FLIGHT} in flight over one socket: {rate:,.0f}/s, server {cost_s * 1e6:.1f} µs"
            )
        rate, cost_s = median(lambda: work(bench, arguments.jobs), arguments.rounds)
        print(f"work: one socket, concurrency {_CONCURRENCY}: {rate:,.0f} jobs/s, server {cost_s * 1e6:.1f} µs")
        rate, cost_s = median(lambda: settling(f"{redis_url}/0", arguments.jobs), arguments.rounds)
        print(f"its ceiling: BullMQ's script alone: {rate:,.0f} jobs/s, Redis {cost_s * 1e6:.1f} µs")
        rate, cost_s = median(lambda: fan_out(bench, arguments.listeners, 100), arguments.rounds)
        print(f"events: to {arguments.listeners} listeners: {rate:,.0f} deliveries/s, server {cost_s * 1e6:.1f} µs")
        for name, path in (("commands", "/ws/queues/idle-one"), ("work", "/ws/queues/idle-two/process/10")):
            # A server each: what the first ones leave would hide what the second ones take.
            bench = Bench(start_target(stack, "toril", TORIL, f"{redis_url}/1", _TOKEN))
            size, share = idle(bench, arguments.idle, path)
            print(f"idle: {arguments.idle} sockets for {name}: {size:.1f} KB each, {share:.1%} of a CPU in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
