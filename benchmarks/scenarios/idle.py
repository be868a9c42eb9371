"""idle: what registered workers cost a process, and its Redis, when nothing happens."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks import procfs
from benchmarks.bench import Bench
from benchmarks.measurement import Column, Contender, Measurement, Scenario, Skipped
from benchmarks.target import Target


def idle(bench: Bench) -> list[Scenario]:
    """Registers many workers on one process and looks at it doing nothing."""
    options = bench.options
    return [
        Scenario(
            "idle",
            f"idle: {options.idle_workers:,} registered workers, no jobs, {options.idle_seconds:g} s",
            (
                Column("connections", "Redis connections", 0, at_most=8),
                Column("cpu_percent", "CPU %", 2, at_most=2),
                Column("kb_per_worker", "KB per worker", 1, at_most=40),
                Column("before", "connections before"),
                Column("store_percent", "store CPU %", 2),
                Column("register_ms", "ms to register one", 2),
            ),
            tuple(Contender(target.name, _idles(bench, target)) for target in bench.targets),
            headline=None,
            once=True,
        )
    ]


def _idles(bench: Bench, target: Target) -> Callable[[float], Measurement]:
    def run(_seconds: float) -> Measurement:
        pid, store, options = target.pid, bench.store(target), bench.options
        if pid is None or store is None:
            raise Skipped(f"needs --pid {target.name}=PID and --redis")
        url = bench.endpoint_or_fail().url("idle")
        base = bench.queue("idle")
        queues = [f"{base}-{number}" for number in range(options.idle_workers)]
        with target.wire() as wire:
            try:
                before = store.connections(procfs.tcp_ports(pid))
                # What the first worker of a process costs once is not what one more worker costs.
                wire.register(queues[0], url, 1)
                time.sleep(2)
                memory_kb = procfs.pss_kb(pid)
                started_s = time.monotonic()
                for queue in queues[1:]:
                    wire.register(queue, url, 1)
                register_ms = (time.monotonic() - started_s) / (len(queues) - 1) * 1e3
                time.sleep(options.idle_settle_s)
                growth_kb = procfs.pss_kb(pid) - memory_kb
                connections = store.connections(procfs.tcp_ports(pid))
                server_s, store_s, started_s = procfs.cpu_s(pid), store.cpu_s(), time.monotonic()
                time.sleep(options.idle_seconds)
                elapsed_s = time.monotonic() - started_s
                server_s, store_s = procfs.cpu_s(pid) - server_s, store.cpu_s() - store_s
            finally:
                for queue in wire.workers().intersection(queues):
                    wire.unregister(queue)
                store.forget(f"{base}-*")
        figures = {
            "connections": float(connections),
            "cpu_percent": server_s / elapsed_s * 100,
            "kb_per_worker": growth_kb / (len(queues) - 1),
            "before": float(before),
            "store_percent": store_s / elapsed_s * 100,
            "register_ms": register_ms,
        }
        return Measurement(figures)

    return run
