"""What each acknowledgement costs: adds a second and their latency, on stores whose files are on the disk.

    python -m benchmarks.acknowledging [--mode NAME]... [--connections 32] [--seconds 4] [--rounds 5] [--folder DIR]

Every mode has a toril and a store of its own, all running at once. In each round every mode has its turn, a different
one first; the ratio to `memory` is taken within the round. Needs wrk. `--folder` has to be on the disk that is meant:
by default it is in `benchmarks/results`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
from tests.support.valkey import ValkeyProcess
from tests.support.waiting import eventually

from benchmarks import procfs
from benchmarks.processes import ProcessError, exit_on_sigterm
from benchmarks.servers import TORIL, start_target
from benchmarks.target import Target
from benchmarks.wrk import Load, Request, load, require

TOKEN = "bench"
_RESULTS = Path(__file__).with_name("results")
_JOB = json.dumps([{"name": "n", "data": {"order": 4711, "customer": "c-81"}}]).encode()
_REPLICATION = {"repl-diskless-sync-delay": "0"}


class Mode(msgspec.Struct, frozen=True):
    """What is acknowledged when, and on what store."""

    name: str
    acknowledge: str
    appendfsync: str = "everysec"
    replicas: int = 0


MODES = [
    Mode("memory", "memory"),
    Mode("fsync, everysec", "fsync"),
    Mode("memory, always", "memory", "always"),
    Mode("fsync, always", "fsync", "always"),
    Mode("replicas:1 of 1", "replicas:1", replicas=1),
    Mode("replicas:1 of 2", "replicas:1", replicas=2),
    Mode("replicas:2 of 2", "replicas:2", replicas=2),
]


def main() -> int:
    """Measure, and print a table."""
    exit_on_sigterm()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--mode", action="append", choices=[mode.name for mode in MODES])
    parser.add_argument("--connections", type=int, action="append")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=_RESULTS)
    options = parser.parse_args()
    require()
    modes = [mode for mode in MODES if not options.mode or mode.name in options.mode or mode is MODES[0]]
    options.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        targets = {mode.name: _start(stack, mode, folder / str(number)) for number, mode in enumerate(modes)}
        for connections in options.connections or [1, 32, 128]:
            _compare(modes, targets, connections, options.seconds, options.rounds)
    return 0


def _start(stack: ExitStack, mode: Mode, folder: Path) -> Target:
    config = {"appendonly": "yes", "appendfsync": mode.appendfsync, **_REPLICATION}
    master = stack.enter_context(ValkeyProcess(folder / "master", config=config))
    for number in range(mode.replicas):
        followed = {"replicaof": f"127.0.0.1 {master.port}"} | config
        stack.enter_context(ValkeyProcess(folder / f"replica-{number}", config=followed))
    eventually(lambda: master.client().info("replication")["connected_slaves"] == mode.replicas, timeout_s=60)
    command = f"/usr/bin/env TORIL_ACKNOWLEDGE={mode.acknowledge} {TORIL}"
    return start_target(stack, mode.name, command, master.url, TOKEN)


def _compare(modes: list[Mode], targets: dict[str, Target], connections: int, seconds: float, rounds: int) -> None:
    seen: dict[str, list[tuple[Load, float]]] = {mode.name: [] for mode in modes}
    for mode in modes:
        _measure(targets[mode.name], connections, 1.0)
    for number in range(rounds):
        turn = number % len(modes)
        for mode in modes[turn:] + modes[:turn]:
            seen[mode.name].append(_measure(targets[mode.name], connections, seconds))
    print(f"\n{connections} connections")
    print(f"{'':18} {'adds/s':>8} {'min':>7} {'max':>7} {'ratio':>6} {'p50 ms':>8} {'p99 ms':>8} {'µs CPU':>7}")
    for mode in modes:
        loads = [one for one, _ in seen[mode.name]]
        rates = [one.per_s for one in loads]
        ratios = [rate / base.per_s for rate, (base, _) in zip(rates, seen[modes[0].name], strict=True)]
        print(
            f"{mode.name:18} {statistics.median(rates):8.0f} {min(rates):7.0f} {max(rates):7.0f} "
            f"{statistics.median(ratios):6.2f} "
            f"{statistics.median(one.p50_us for one in loads) / 1000:8.2f} "
            f"{statistics.median(one.p99_us for one in loads) / 1000:8.2f} "
            f"{statistics.median(cpu for _, cpu in seen[mode.name]) * 1e6:7.0f}"
        )
        bad, broken = sum(one.bad_status for one in loads), sum(one.broken for one in loads)
        if bad or broken:
            print(f"  ! {bad} answers of 400 and above, {broken} broken")
    sys.stdout.flush()


def _measure(target: Target, connections: int, seconds: float) -> tuple[Load, float]:
    """Return what wrk saw, and the CPU seconds of toril for each add."""
    queue = f"bench-{time.time_ns()}"
    cpu_s = procfs.cpu_s(target.pid)
    seen = load(Request("POST", f"{target.url}/queues/{queue}/jobs", TOKEN, _JOB), connections, seconds)
    return seen, (procfs.cpu_s(target.pid) - cpu_s) / max(1, seen.requests)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ProcessError as exc:
        sys.exit(str(exc))
