"""Two versions of toril in turns, and the CPU that each takes for a request: what a change costs.

    python -m benchmarks.interleaved --before /path/of/another/worktree --rounds 20
    python -m benchmarks.interleaved --before . --traces 1 --scenario add --scenario push    # what traces cost

Both run in the environment of this one, on one embedded Valkey, with nothing but their sources apart. Slices of load
alternate, so what else runs on the machine meets both alike; CPU time of the server's process counts, not the clock.
The ratio is taken in each round before the median. `benchmarks.guard` compares a commit with its parent in this way.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import redis

from benchmarks import wrk
from benchmarks.collector import Collector
from benchmarks.delivering import CONCURRENCY, Calls
from benchmarks.endpoint import Endpoint
from benchmarks.processes import Child
from benchmarks.servers import free_port, start_valkey, wait_until_up
from benchmarks.streams import StreamServer
from benchmarks.target import Target, Wire

TOKEN = "interleaved"
JOB = b'[{"name":"charge","data":{"order":42,"amount":1999,"currency":"EUR"},"opts":{"attempts":3}}]'
ENVELOPE = {"target": "sink", "path": "/orders", "body": {"order": 4711, "customer": "c-81"}, "delay_ms": 3_600_000}
SCENARIOS = ("add", "get", "accept", "pass", "durable", "push", "deliver", "deliver-postgres")
"""What is compared: a job added, a job read, a request accepted by the async proxy, one that it passes through, an
envelope accepted with a ledger in PostgreSQL, a job pushed to a registered worker, and a delivery made to a target with
a ledger in SQLite, or in PostgreSQL.
"""
QUICK = ("add", "get", "accept", "pass", "push")
"""Those that are measured by default: they need no PostgreSQL."""
_PUSHED_A_SECOND = 8_000
_PUSH_CONCURRENCY = 100
_DELIVERED_A_SECOND = 2_500
_ENVELOPES = 500
_STANDS_STILL_S = 20.0
_UPSTREAMS = """\
upstreams:
  - prefix: /api
    url: http://127.0.0.1:9
    timeout: 1s
  - prefix: /direct
    url: {upstream}
    pathFilter:
      patterns: ["^/direct"]
listenAddress: "127.0.0.1:{port}"
apiPath: /__toril
"""
_DELIVERING = {"deliver", "deliver-postgres"}
_WORKING = {"push", *_DELIVERING}
_ON_POSTGRES = {"durable", "deliver-postgres"}
_HEALTH = {"accept": "/__toril/health", "pass": "/__toril/health"}


@dataclass(frozen=True)
class Version:
    """A server of one version, and the database that is its own."""

    name: str
    url: str
    pid: int
    store: redis.Redis


@dataclass(frozen=True)
class Comparison:
    """The CPU that two versions took for a request, in microseconds, in each round."""

    scenario: str
    rounds: Sequence[tuple[float, float]]

    @property
    def before_us(self) -> float:
        return median(before for before, _ in self.rounds)

    @property
    def after_us(self) -> float:
        return median(after for _, after in self.rounds)

    @property
    def ratio(self) -> float:
        """How much the second version took of what the first one did, in the median of the rounds."""
        return median(self._ratios())

    def line(self) -> str:
        """The figures, with the ratios between which half of the rounds were."""
        ratios = sorted(self._ratios())
        quarter = len(ratios) // 4
        return (
            f"{self.scenario:16} before {self.before_us:6.1f} µs   after {self.after_us:6.1f} µs   "
            f"ratio {self.ratio:.3f} (middle half {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f})"
        )

    def __add__(self, more: Comparison) -> Comparison:
        return Comparison(self.scenario, [*self.rounds, *more.rounds])

    def _ratios(self) -> list[float]:
        return [after / before for before, after in self.rounds]


Measure = Callable[[Endpoint, Version, str, int], float]
"""Has a version work off so many jobs under this name; returns the CPU for each, in microseconds."""


def compare(
    scenario: str, before: Path, after: Path, rounds: int, seconds: float, traces: float | None = None
) -> Comparison:
    """Measure one scenario with the sources of two worktrees. With `traces` the second one keeps this part of them."""
    with ExitStack() as stack:
        store = start_valkey(stack)
        config, more = _Config(stack, scenario), {}
        if traces is not None:
            collector = Collector()
            stack.callback(collector.stop)
            more = collector.environment(traces)
        versions = [
            _start(stack, "before", before, f"{store}/0", config),
            _start(stack, "after", after, f"{store}/1", config, more),
        ]
        match scenario:
            case "push":
                measured = _worked_off(config.endpoint, versions, rounds, round(_PUSHED_A_SECOND * seconds), _pushed_us)
            case "deliver" | "deliver-postgres":
                jobs = round(_DELIVERED_A_SECOND * seconds)
                measured = _worked_off(config.endpoint, versions, rounds, jobs, _delivered_us)
            case _:
                measured = _rounds(scenario, versions, rounds, seconds)
        return Comparison(scenario, [(one, two) for one, two in measured])


class _Config:
    """The configuration files of a scenario, and the servers that stand behind it."""

    def __init__(self, stack: ExitStack, scenario: str) -> None:
        self.scenario = scenario
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._upstream = "http://127.0.0.1:9"
        if scenario == "pass":
            upstream = StreamServer()
            stack.callback(upstream.stop)
            self._upstream = upstream.url
        elif scenario in _WORKING:
            self.endpoint = Endpoint()
            stack.callback(self.endpoint.stop)
        if scenario in _ON_POSTGRES:
            from tests.support.postgres import PostgresProcess  # noqa: PLC0415 - the others need none

            self._postgres = stack.enter_context(PostgresProcess(shared_buffers="256MB"))

    def file(self, port: int) -> Path | None:
        """Write the file of one version; None where it needs none."""
        file = self._folder / f"{port}.yaml"
        if self.scenario in {"accept", "pass"}:
            file.write_text(_UPSTREAMS.format(port=port, upstream=self._upstream))
        elif self.scenario == "durable":
            ledger = {"url": self._postgres.database()}
            file.write_text(json.dumps({"targets": {"sink": {"url": "http://127.0.0.1:9"}}, "ledger": ledger}))
        elif self.scenario in _DELIVERING:
            target = {"url": self.endpoint.url("bench"), "concurrency": CONCURRENCY}
            sqlite = self.scenario == "deliver"
            ledger = {"url": f"sqlite:///{self._folder}/{port}.sqlite3" if sqlite else self._postgres.database()}
            file.write_text(json.dumps({"targets": {"bench": target}, "ledger": ledger}))
        else:
            return None
        return file


def _start(
    stack: ExitStack, name: str, source: Path, store: str, config: _Config, more: Mapping[str, str] = {}
) -> Version:
    """Start a version. It takes requests, and works on none of them, but where that is measured."""
    port = free_port()
    argv = [
        sys.executable, "-m", "toril", "serve", "--host", "127.0.0.1", "--port", str(port), "--processes", "1",
        "--role", "all" if config.scenario in _WORKING else "gateway",
    ]  # fmt: skip
    file = config.file(port)
    if file is not None:
        argv += ["--config", str(file)]
    environment = {
        "REDIS_URL": store,
        "AUTH_TOKENS": TOKEN,
        "PYTHONPATH": str(source / "src"),
        # Else two processes of the same source differ by a few percent for as long as they live.
        "PYTHONHASHSEED": "0",
        "TORIL_SHUTDOWN_DELAY": "0",
        "TORIL_LOG_LEVEL": "warning",
    }
    child = stack.enter_context(Child(name, argv, environment | more))
    wait_until_up(child, port, _HEALTH.get(config.scenario, "/health"))
    version = Version(name, f"http://127.0.0.1:{port}", child.pid, redis.Redis.from_url(store))
    if config.scenario in _ON_POSTGRES:
        _wait_for_ledger(version)
    return version


def _wait_for_ledger(version: Version) -> None:
    """Wait until the ledger in PostgreSQL is reached: until then nothing is accepted."""
    until_s = time.monotonic() + _STANDS_STILL_S
    while httpx.get(f"{version.url}/ready").status_code != 200:
        if time.monotonic() > until_s:
            raise RuntimeError(f"{version.name}: its ledger is not there")
        time.sleep(0.05)


def cpu_us(pid: int) -> float:
    """Return the CPU that all threads of a process have used, in microseconds."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1000


def _rounds(scenario: str, versions: list[Version], rounds: int, seconds: float) -> Iterator[list[float]]:
    """Yield, for each round, the CPU of each version for a request."""
    for version in versions:
        wrk.load(_request("add" if scenario == "get" else scenario, version), 4, 1)  # warm, and there is a job 1
    for number in range(rounds):
        figures = [0.0] * len(versions)
        order = range(len(versions)) if number % 2 == 0 else reversed(range(len(versions)))
        for place in order:
            version = versions[place]
            if scenario in {"add", "accept"}:
                version.store.flushdb()
            before = cpu_us(version.pid)
            done = wrk.load(_request(scenario, version), 32, seconds)
            if done.bad_status or done.broken:
                raise RuntimeError(f"{version.name}: {done}")
            figures[place] = (cpu_us(version.pid) - before) / done.requests
        yield figures


def _worked_off(
    endpoint: Endpoint, versions: list[Version], rounds: int, jobs: int, measure: Measure
) -> Iterator[list[float]]:
    """Yield, for each round, the CPU of each version for a job that it works off, with so many of them."""
    for version in versions:
        measure(endpoint, version, "warm", 1_000)
    for number in range(rounds):
        figures = [0.0] * len(versions)
        order = range(len(versions)) if number % 2 == 0 else reversed(range(len(versions)))
        for place in order:
            figures[place] = measure(endpoint, versions[place], f"interleaved-{number}", jobs)
        yield figures


def _pushed_us(endpoint: Endpoint, version: Version, queue: str, jobs: int) -> float:
    """Return the CPU for each of these jobs, from the registration of the worker until all have completed."""
    with Wire(Target(version.name, version.url, TOKEN)) as wire:
        wire.add_many(queue, jobs)
        endpoint.reset()
        before = cpu_us(version.pid)
        wire.register(queue, endpoint.url(queue), _PUSH_CONCURRENCY)
        _wait_for(version, jobs, lambda: _length(version.store.zcard(f"bull:{queue}:completed")))
        used_us = cpu_us(version.pid) - before
        _check_arrived(endpoint, version, jobs)
        wire.unregister(queue)
        wire.call("POST", f"/queues/{queue}/obliterate", b'{"force":true}')
    return used_us / jobs


def _delivered_us(endpoint: Endpoint, version: Version, name: str, jobs: int) -> float:
    """Return the CPU for each of these deliveries, from when their target is resumed until all jobs are gone."""
    calls = Calls(Target(version.name, version.url, TOKEN))
    calls("POST", "/targets/bench/pause")
    for first in range(0, jobs, _ENVELOPES):
        numbers = range(first, min(first + _ENVELOPES, jobs))
        calls("POST", "/enqueue/batch", [{"target": "bench", "body": {"n": f"{name}-{n}"}} for n in numbers])
    endpoint.reset()
    before = cpu_us(version.pid)
    calls("POST", "/targets/bench/resume")
    lists = [f"bull:deliver-bench:{state}" for state in ("wait", "active")]
    _wait_for(version, jobs, lambda: jobs - sum(_length(version.store.llen(key)) for key in lists))
    used_us = cpu_us(version.pid) - before
    _check_arrived(endpoint, version, jobs)
    return used_us / jobs


def _wait_for(version: Version, jobs: int, count: Callable[[], int]) -> None:
    """Wait until so many jobs are done."""
    done, moved_s = 0, time.monotonic()
    while done < jobs:
        time.sleep(0.02)
        latest = count()
        if latest != done:
            done, moved_s = latest, time.monotonic()
        elif time.monotonic() - moved_s > _STANDS_STILL_S:
            raise RuntimeError(f"{version.name}: only {done} of {jobs} jobs are done")


def _length(reply: Any) -> int:
    return int(reply)


def _check_arrived(endpoint: Endpoint, version: Version, jobs: int) -> None:
    if (arrived := endpoint.stats().count) != jobs:
        raise RuntimeError(f"{version.name}: {jobs} jobs made {arrived} requests")


def _request(scenario: str, version: Version) -> wrk.Request:
    match scenario:
        case "add":
            return wrk.Request("POST", f"{version.url}/queues/interleaved/jobs", TOKEN, JOB)
        case "get":
            return wrk.Request("GET", f"{version.url}/queues/interleaved/jobs/1", TOKEN)
        case "accept":
            return wrk.Request("POST", f"{version.url}/api/charge", TOKEN, JOB)
        case "pass":
            return wrk.Request("GET", f"{version.url}/direct/2", TOKEN)
        case _:
            return wrk.Request("POST", f"{version.url}/enqueue", TOKEN, json.dumps(ENVELOPE).encode())


def main() -> None:
    """Measure, and print a line for each scenario."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", type=Path, required=True, help="a worktree of the version to compare with")
    parser.add_argument("--after", type=Path, default=Path.cwd(), help="a worktree (default: this one)")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help=f"(default: {', '.join(QUICK)})")
    parser.add_argument(
        "--traces", type=float, metavar="PART", help="the second version is traced, and keeps this part of the traces"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    wrk.require()
    for scenario in options.scenario or QUICK:
        found = compare(
            scenario, options.before.absolute(), options.after, options.rounds, options.seconds, options.traces
        )
        print(found.line(), flush=True)


if __name__ == "__main__":
    main()
