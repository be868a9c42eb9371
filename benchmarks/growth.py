"""How costs grow: with the rate, the size of a job, queues, processes, idle workers and sockets, a ledger, and time.

    python -m benchmarks.growth [--seconds 3] [--rounds 3] [--scenario rate]... [--json FILE]
    python -m benchmarks.growth --scenario ledger --rows 10000000
    python -m benchmarks.growth --scenario memory --minutes 60
    python -m benchmarks.growth --scenario held

One process of toril on an embedded Valkey. The load is an open loop (`open_loop.c`): requests are due at an even pace,
and the time that one takes counts from when it was due, also if the server made it wait before it was sent (no
coordinated omission). Steps of a scenario run in turns, and figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import redis
from tests.support.sizes import fill

from benchmarks import payload, procfs
from benchmarks.growing import TOKEN, Figures, Options, Seen, Steps, add, get, load, median_of_each
from benchmarks.growth_cluster import cluster
from benchmarks.growth_ledger import ledger
from benchmarks.growth_memory import memory
from benchmarks.held_cpu import held
from benchmarks.interleaved import cpu_us
from benchmarks.processes import ProcessError, exit_on_sigterm, module, run_to_end
from benchmarks.servers import TORIL, start_target, start_valkey
from benchmarks.sockets import Bench, allow_sockets
from benchmarks.sockets import idle as idle_sockets

TITLES = {
    "rate": "latency of an add at parts of the greatest rate, 32 connections",
    "size": "an add by the size of its data, 8 connections",
    "queues": "an add by the number of queues that get jobs in turn, 32 connections",
    "depth": "an add to a queue and a page of its waiting jobs, by how many wait in it",
    "processes": "an add by the number of processes, 32 connections",
    "held": "an add by the number of processes, each of which has a quarter of a core, 32 connections",
    "idle": "registered workers without jobs on one process",
    "sockets": "WebSockets without traffic on one process",
    "cluster": "adds to 300 queues in turn, by the nodes of a Redis Cluster, 32 connections",
    "ledger": "an accepted envelope and a page of the list, by the rows of a ledger in PostgreSQL",
    "memory": "memory while jobs are added and pushed at an even rate",
}
_RATE = 32
_PARTS = (10, 50, 90)
_SIZES = {"100 B": 100, "10 KB": 10_000, "1 MB": 1_000_000}
_QUEUES = (1, 1_000, 10_000)
_DEPTHS = (1_000, 1_000_000)
_PROCESSES = (1, 2)
_PROCESSES_APART = (1, 2, 4)
_SHARE = 0.25
_IDLE = (1_000, 10_000)
_IDLE_SETTLE_S = 45
"""A queue is checked within 30 s after its worker was registered (`engine.stalled_interval`); later it costs less."""


class Server:
    """One toril on its own Valkey, emptied between two measurements."""

    def __init__(self, stack: ExitStack, processes: int = 1) -> None:
        store = start_valkey(stack)
        command = TORIL.replace("--processes 1", f"--processes {processes}")
        self.target = start_target(stack, "toril", command, store, TOKEN)
        self._store = redis.Redis.from_url(store, socket_timeout=30)
        stack.callback(self._store.close)
        load(self.target, [add("warm", payload.jobs(1))], 8, 0, 1.0)

    def measure(self, requests: Sequence[bytes], connections: int, rate: float, seconds: float) -> tuple[Seen, float]:
        """Return what `seen` does, on an empty store, which is empty again afterwards."""
        self._store.flushdb()
        found = self.seen(requests, connections, rate, seconds)
        self._store.flushdb()
        return found

    def seen(self, requests: Sequence[bytes], connections: int, rate: float, seconds: float) -> tuple[Seen, float]:
        """Return what the load saw, and the server's CPU for each request in microseconds."""
        before = self.cpu_us()
        seen = load(self.target, requests, connections, rate, seconds)
        used_us = sum(self.cpu_us().values()) - sum(before.values())
        return seen, used_us / max(1, seen.answered)

    def fill(self, queue: str, waiting: int) -> None:
        """Make so many jobs wait in a queue."""
        fill(self._store, queue, wait=waiting)
        self._store.set(f"bull:{queue}:id", waiting)

    def cpu_us(self) -> dict[int, float]:
        """Return the CPU that each of the server's processes has used."""
        return {pid: cpu_us(pid) for pid in procfs.tree(self.target.pid or 0)}


def rate(options: Options) -> Steps:
    """Latencies at parts of the rate that the server reaches in a closed loop, found anew in each round."""
    requests = [add("rate", payload.jobs(1))]

    def one_round(server: Server) -> Iterator[tuple[str, Figures]]:
        most, cost_us = server.measure(requests, _RATE, 0, options.seconds)
        per_s = most.answered / most.seconds
        yield "as fast as it answers", _latencies(most, per_s, cost_us)
        for part in _PARTS:
            seen, cost_us = server.measure(requests, _RATE, per_s * part / 100, options.seconds)
            yield f"{part} %", _latencies(seen, per_s * part / 100, cost_us)

    return _medians(one_round, options.rounds)


def _latencies(seen: Seen, asked_per_s: float, cost_us: float) -> Figures:
    return {
        "ms p99": seen.p99_us / 1e3,
        "ms p50": seen.p50_us / 1e3,
        "ms p99.9": seen.p999_us / 1e3,
        "adds/s asked for": asked_per_s,
        "adds/s answered": seen.answered / seen.seconds,
        "µs of CPU each": cost_us,
        "not answered": float(seen.unanswered),
    }


def size(options: Options) -> Steps:
    """Adds of jobs with data of several sizes."""

    def one_round(server: Server) -> Iterator[tuple[str, Figures]]:
        for name, count in _SIZES.items():
            body = msgspec.json.encode([{"name": payload.NAME, "data": {"text": "x" * count}}])
            # What is added stays in memory until the measurement ends.
            seen, cost_us = server.measure(
                [add("size", body)], 8, 0, min(options.seconds, 1.0) if count > 100_000 else options.seconds
            )
            per_s = seen.answered / seen.seconds
            yield (
                name,
                {"µs of CPU each": cost_us, "adds/s": per_s, "MB/s": per_s * count / 1e6, "ms p50": seen.p50_us / 1e3},
            )

    return _medians(one_round, options.rounds)


def queues(options: Options) -> Steps:
    """Adds to one queue, and to many in turn."""
    requests = {count: [add(f"queue-{number}", payload.jobs(1)) for number in range(count)] for count in _QUEUES}

    def one_round(server: Server) -> Iterator[tuple[str, Figures]]:
        for count in _QUEUES:
            seen, cost_us = server.measure(requests[count], 32, 0, options.seconds)
            figures = {"µs of CPU each": cost_us, "adds/s": seen.answered / seen.seconds, "ms p99": seen.p99_us / 1e3}
            yield f"{count:,}", figures

    return _medians(one_round, options.rounds)


def depth(options: Options) -> Steps:
    """Adds to a queue with few and to one with a million waiting jobs, and the first page of ten of those."""
    seen: dict[str, list[Figures]] = {}
    adds = [add("depth", payload.jobs(1))]
    page = [get("/queues/depth/jobs?start=0&length=10&statuses=waiting")]
    with ExitStack() as stack:
        servers = {count: Server(stack) for count in _DEPTHS}
        for count, server in servers.items():
            server.fill("depth", count)
        for _ in range(options.rounds):
            for count, server in servers.items():
                added, cost_us = server.seen(adds, 32, 0, options.seconds)
                listed, page_us = server.seen(page, 32, 0, options.seconds)
                figures = {
                    "µs of CPU an add": cost_us,
                    "adds/s": added.answered / added.seconds,
                    "µs of CPU a page": page_us,
                    "pages/s": listed.answered / listed.seconds,
                }
                seen.setdefault(f"{count:,}", []).append(figures)
    return median_of_each(seen)


def processes(options: Options) -> Steps:
    """Adds to one process, and to two that share the port: what each costs, and how evenly connections are spread.

    New connections are opened in each round. A process's share of the CPU is about its share of the requests.
    """
    seen: dict[str, list[Figures]] = {}
    requests = [add("processes", payload.jobs(1))]
    with ExitStack() as stack:
        servers = {count: Server(stack, count) for count in _PROCESSES}
        for _ in range(options.rounds):
            for count, server in servers.items():
                before = server.cpu_us()
                found, cost_us = server.measure(requests, 32, 0, options.seconds)
                used = [now - before.get(pid, 0.0) for pid, now in server.cpu_us().items()]
                figures = {
                    "µs of CPU each": cost_us,
                    "adds/s": found.answered / found.seconds,
                    "of the CPU in the busiest process": max(used) / sum(used),
                }
                seen.setdefault(str(count), []).append(figures)
    return median_of_each(seen)


def processes_apart(options: Options) -> Steps:
    """Adds to one, two and four processes, each of which has a quarter of a core and no more.

    On two cores two processes, Redis and the load wait for each other, so that two show no more than one. Held so, they
    are like processes with cores of their own, four times as slow, on a machine that has cores to spare.
    """
    seen: dict[str, list[Figures]] = {}
    requests = [add("held", payload.jobs(1))]
    with ExitStack() as stack:
        servers = {count: Server(stack, count) for count in _PROCESSES_APART}
        for server in servers.values():
            stack.enter_context(held(server.cpu_us(), _SHARE))
        for _ in range(options.rounds):
            one_per_s = 0.0
            for count, server in servers.items():
                found, cost_us = server.measure(requests, 32, 0, options.seconds)
                per_s = found.answered / found.seconds
                one_per_s = one_per_s or per_s
                figures = {
                    "of the adds of one process": per_s / one_per_s,
                    "adds/s": per_s,
                    "µs of CPU each": cost_us,
                    "of a core": per_s * cost_us / 1e6,
                }
                seen.setdefault(str(count), []).append(figures)
    return median_of_each(seen)


def idle(_options: Options) -> Steps:
    """Registered workers that have no jobs: `benchmarks.run --scenario idle`, with more of them."""
    found: Steps = {}
    for count in _IDLE:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "idle.json"
            argv = module(
                "run", "--scenario", "idle", "--idle-workers", str(count), "--idle-settle", str(_IDLE_SETTLE_S)
            )
            run_to_end([*argv, "--rounds", "1", "--idle-seconds", "30", "--json", str(file)], 600)
            (one,) = msgspec.json.decode(file.read_bytes())["scenarios"]["idle"]["contenders"].values()
        figures = one["median"]
        found[f"{count:,}"] = {
            "% of a core": figures["cpu_percent"],
            "% of a core of Redis": figures["store_percent"],
            "connections to Redis": figures["connections"],
            "KB each": figures["kb_per_worker"],
        }
    return found


def _medians(one_round: Callable[[Server], Iterator[tuple[str, Figures]]], rounds: int) -> Steps:
    """Return the median of each figure of each step over rounds with one server."""
    seen: dict[str, list[Figures]] = {}
    with ExitStack() as stack:
        server = Server(stack)
        for _ in range(rounds):
            for step, figures in one_round(server):
                seen.setdefault(step, []).append(figures)
    return median_of_each(seen)


def sockets(options: Options) -> Steps:
    """Sockets for commands, and sockets that wait for jobs of one queue; a server each."""
    allow_sockets()
    found: Steps = {}
    with ExitStack() as stack:
        store = start_valkey(stack)
        for name, path in (("commands", "/ws/queues/idle-one"), ("work", "/ws/queues/idle-two/process/10")):
            bench = Bench(start_target(stack, "toril", TORIL, f"{store}/0", TOKEN), TOKEN)
            size_kb, share = idle_sockets(bench, options.sockets, path)
            found[f"{options.sockets:,} for {name}"] = {"% of a core": 100 * share, "KB each": size_kb}
    return found


SCENARIOS: Mapping[str, Callable[[Options], Steps]] = {
    "rate": rate,
    "size": size,
    "queues": queues,
    "depth": depth,
    "processes": processes,
    "held": processes_apart,
    "idle": idle,
    "sockets": sockets,
    "cluster": cluster,
    "ledger": ledger,
    "memory": memory,
}


_ONLY_ASKED_FOR = ("held", "memory")
"""One needs root, the other takes an hour."""


def main() -> int:
    """Measure, and print a line for each step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=(__doc__ or "").partition("\n")[0])
    usual = Options()
    parser.add_argument("--seconds", type=float, default=usual.seconds, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=usual.rounds)
    parser.add_argument(
        "--rows", type=int, default=usual.rows, help="of the large ledger; a million take 1.5 GB of disk"
    )
    parser.add_argument("--sockets", type=int, default=usual.sockets)
    parser.add_argument("--minutes", type=int, default=usual.minutes, help="of the scenario memory")
    parser.add_argument(
        "--scenario", action="append", choices=tuple(SCENARIOS), help="repeatable (default: all but held and memory)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    options = parser.parse_args()
    exit_on_sigterm()
    sizes = Options(options.seconds, options.rounds, options.rows, options.sockets, options.minutes)
    found: dict[str, Steps] = {}
    try:
        for name in dict.fromkeys(options.scenario or (name for name in SCENARIOS if name not in _ONLY_ASKED_FOR)):
            print(TITLES[name])
            found[name] = SCENARIOS[name](sizes)
            for step, figures in found[name].items():
                print(f"  {step:22} {', '.join(f'{value:,.2f} {what}' for what, value in figures.items())}", flush=True)
    except ProcessError as exc:
        print(exc, file=sys.stderr)
        return 1
    if options.json is not None:
        options.json.write_bytes(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
