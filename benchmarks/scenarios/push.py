"""push and latency: a registered worker and the compiled endpoint, beside the HTTP client alone.

A server that loses or repeats jobs must not look fast: arrivals and completed jobs are counted, and told.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import msgspec

from benchmarks import payload, procfs
from benchmarks.bench import Bench, Meter
from benchmarks.ceiling_client import NOT_INSTALLED
from benchmarks.endpoint import Endpoint, Stats
from benchmarks.measurement import Column, Contender, Measurement, Scenario, Skipped
from benchmarks.processes import ProcessError, module, run_to_end
from benchmarks.scenarios.script import script
from benchmarks.target import Target

PUSH_CONCURRENCY = 100
_STALLED_AFTER_S = 10.0


def push(bench: Bench) -> list[Scenario]:
    """Drains a preloaded queue through a registered worker, beside the HTTP client alone."""
    ceilings = (
        # The goal is for toril's own client; the others show what there was to choose from.
        Contender(f"client {name}", _client(bench, name), ceiling=True, goal=0.45 if name == "toril" else None)
        for name in bench.options.clients
    )
    return [
        Scenario(
            "push",
            f"push: drain through a registered worker, concurrency {PUSH_CONCURRENCY} (jobs)",
            (
                Column("per_s", "per s"),
                Column("server_us", "server µs", 1),
                Column("store_us", "store µs", 1),
                Column("busy", "endpoint", 2),
            ),
            (
                *(Contender(target.name, _pushes(bench, target)) for target in bench.targets),
                *ceilings,
                # Where the client is leaner than the scripts, Redis is what bounds push.
                Contender("script, settle", script(bench, "settle", PUSH_CONCURRENCY), ceiling=True),
            ),
            warm_up_s=0.5,
        )
    ]


def latency(bench: Bench) -> list[Scenario]:
    """From sending a one-job add until the endpoint has the job, at a low rate on an idle server."""
    options = bench.options
    return [
        Scenario(
            "latency",
            f"latency: add to endpoint, {options.latency_rate:g} jobs a second",
            (
                Column("p50_ms", "p50 ms", 2),
                Column("p99_ms", "p99 ms", 2),
                Column("max_ms", "max ms", 2),
                Column("jobs", "jobs"),
            ),
            tuple(Contender(target.name, _latencies(bench, target)) for target in bench.targets),
            headline=None,
        )
    ]


def _pushes(bench: Bench, target: Target) -> Callable[[float], Measurement]:
    def run(seconds: float) -> Measurement:
        endpoint = bench.endpoint_or_fail()
        jobs = bench.push_jobs(seconds)
        with bench.queue_of(target, "push") as queue, target.wire() as wire:
            wire.add_many(queue, jobs)
            endpoint.reset()
            meter = Meter(target, bench.store(target))
            endpoint_s, started = procfs.cpu_s(endpoint.pid), time.monotonic()
            wire.register(queue, endpoint.url(queue), PUSH_CONCURRENCY)
            try:
                stats = _arrivals(endpoint, jobs)
                busy = (procfs.cpu_s(endpoint.pid) - endpoint_s) / (time.monotonic() - started)
                completed = _settles(lambda: wire.count(queue, "completed"), jobs)
                figures = {"per_s": stats.per_s, "busy": busy, **meter.per(completed)}
                again = endpoint.stats().count - jobs
            finally:
                wire.unregister(queue)
        notes = []
        if completed < jobs:
            notes.append(f"only {completed} of {jobs} jobs completed")
        if again > 0:
            notes.append(f"{again} jobs reached the endpoint more than once")
        if busy > 0.9:
            notes.append(f"the endpoint was {busy:.0%} busy: the server may be faster than this")
        return Measurement(figures, tuple(notes))

    return run


def _latencies(bench: Bench, target: Target) -> Callable[[float], Measurement]:
    def run(_seconds: float) -> Measurement:
        endpoint, options = bench.endpoint_or_fail(), bench.options
        jobs = round(options.latency_rate * options.latency_seconds)
        with bench.queue_of(target, "latency") as queue, target.wire() as wire:
            wire.register(queue, endpoint.url(queue), PUSH_CONCURRENCY)
            try:
                endpoint.reset()
                wire.add_many(queue, 5)  # connections are made and paths are warm before anything counts
                _arrivals(endpoint, 5)
                endpoint.reset()
                next_s = time.monotonic()
                for _ in range(jobs):
                    next_s += 1 / options.latency_rate
                    time.sleep(max(0.0, next_s - time.monotonic()))
                    wire.add(queue, _stamped())
                _arrivals(endpoint, jobs)
                seen_ms = [us / 1e3 for us in endpoint.latencies_us()]
            finally:
                wire.unregister(queue)
        if len(seen_ms) < 2:
            raise ProcessError("no job of the latency scenario reached the endpoint")
        percentiles = statistics.quantiles(seen_ms, n=100, method="inclusive")
        notes = (f"only {len(seen_ms)} of {jobs} jobs arrived",) if len(seen_ms) < jobs else ()
        figures = {
            "p50_ms": percentiles[49],
            "p99_ms": percentiles[98],
            "max_ms": max(seen_ms),
            "jobs": float(len(seen_ms)),
        }
        return Measurement(figures, notes)

    return run


def _client(bench: Bench, name: str) -> Callable[[float], Measurement]:
    class Answer(msgspec.Struct):
        per_s: float

    def run(seconds: float) -> Measurement:
        endpoint = bench.endpoint_or_fail()
        endpoint.reset()
        endpoint_s = procfs.cpu_s(endpoint.pid)
        _, *arguments = module("ceiling_client", "--client", name, "--url", endpoint.url("ceiling"))
        argv = [
            sys.executable if name == "toril" else bench.options.client_python,
            *arguments,
            *("--concurrency", str(PUSH_CONCURRENCY), "--seconds", str(seconds)),
        ]
        try:
            ended = run_to_end(argv, seconds + 30)
        except ProcessError as exc:
            if exc.returncode == NOT_INSTALLED:
                raise Skipped(str(exc).splitlines()[-1]) from exc
            raise
        # Counted where push is counted, at the endpoint, so the ratio compares one measure with itself.
        stats = endpoint.stats()
        busy = (procfs.cpu_s(endpoint.pid) - endpoint_s) / ((stats.last_us - stats.first_us) / 1e6)
        claimed = msgspec.json.decode(ended.stdout, type=Answer).per_s
        notes = () if 0.9 < claimed / stats.per_s < 1.1 else (f"the client itself counted {claimed:,.0f} per s",)
        server_us = ended.cpu_s / stats.count * 1e6
        return Measurement({"per_s": stats.per_s, "server_us": server_us, "busy": busy}, notes)

    return run


def _stamped() -> bytes:
    return msgspec.json.encode([{"name": payload.NAME, "data": {"sent_us": time.monotonic_ns() // 1_000}}])


def _arrivals(endpoint: Endpoint, expected: int) -> Stats:
    """Waits until this many requests came, or until none has come for a while."""
    _settles(lambda: endpoint.stats().count, expected)
    return endpoint.stats()


def _settles(count: Callable[[], int], expected: int) -> int:
    """Waits for a growing count to reach a number; gives up when it stands still. Returns the last count."""
    seen, moved_s = count(), time.monotonic()
    while seen < expected and time.monotonic() - moved_s < _STALLED_AFTER_S:
        time.sleep(0.05)
        latest = count()
        if latest != seen:
            seen, moved_s = latest, time.monotonic()
    return seen
