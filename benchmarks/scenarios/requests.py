"""add, bulk and get: wrk against one route, beside apps that do nothing else, and the bare script call.

A server that acknowledges jobs and does not store them must not look fast: every add run of a
server is counted afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks import payload, wrk
from benchmarks.bench import Bench, Meter
from benchmarks.measurement import Column, Contender, Measurement, Scenario
from benchmarks.scenarios.script import script
from benchmarks.target import Target

_COLUMNS = (
    Column("per_s", "per s"),
    Column("p50_ms", "p50 ms", 1),
    Column("p99_ms", "p99 ms", 1),
    Column("server_us", "server µs", 1),
    Column("store_us", "store µs", 1),
    Column("busy", "load gen", 2),
)


def add(bench: Bench) -> list[Scenario]:
    """One job a request, at 32 and at 128 connections, beside the raw ASGI app."""
    return [
        Scenario(
            f"add-{connections}",
            f"add: one job a request, {connections} connections (requests)",
            _COLUMNS,
            (
                *(Contender(target.name, _adds(bench, target, 1, connections)) for target in bench.targets),
                *_asgi(bench, payload.jobs(1), connections, goal=0.45),
                *(
                    Contender(server.name, _adds(bench, server, 1, connections, counted=False), ceiling=True)
                    for server in bench.storing
                ),
            ),
            warm_up_s=1,
        )
        for connections in (32, 128)
    ]


def bulk(bench: Bench) -> list[Scenario]:
    """100 jobs a request at 8 connections, beside the bare script call."""
    return [
        Scenario(
            "bulk",
            "bulk: 100 jobs a request, 8 connections (jobs)",
            _COLUMNS,
            (
                *(Contender(target.name, _adds(bench, target, 100, 8)) for target in bench.targets),
                # As many batches in flight as bulk has requests in flight; and one, as a plain client has it.
                Contender("script, 8 batches", script(bench, "add", 8), ceiling=True, goal=0.9),
                Contender("script, 1 batch", script(bench, "add", 1), ceiling=True),
            ),
            warm_up_s=1,
        )
    ]


def get(bench: Bench) -> list[Scenario]:
    """GET of one job at 32 connections, beside the raw ASGI app."""

    def gets(target: Target) -> Callable[[float], Measurement]:
        def run(seconds: float) -> Measurement:
            with bench.queue_of(target, "get") as queue, target.wire() as wire:
                job_id = wire.add_one(queue)
                url = f"{target.url}/queues/{queue}/jobs/{job_id}"
                return _drive(bench, target, wrk.Request("GET", url, target.token), 32, seconds)

        return run

    return [
        Scenario(
            "get",
            "get: one job, 32 connections (requests)",
            _COLUMNS,
            (
                *(Contender(target.name, gets(target)) for target in bench.targets),
                *_asgi(bench, b"", 32),
                *(Contender(server.name, gets(server), ceiling=True) for server in bench.storing),
            ),
            warm_up_s=1,
        )
    ]


def _adds(
    bench: Bench, target: Target, jobs: int, connections: int, *, counted: bool = True
) -> Callable[[float], Measurement]:
    """Return a run of adds. Ceilings have no route that counts: a test says that they store what they answer."""

    def run(seconds: float) -> Measurement:
        with bench.queue_of(target, "add") as queue:
            url = f"{target.url}/queues/{queue}/jobs"
            request = wrk.Request("POST", url, target.token, payload.jobs(jobs))
            measured = _drive(bench, target, request, connections, seconds, jobs)
            if not counted:
                return measured
            with target.wire() as wire:
                stored = wire.count(queue, "waiting")
        answered = round(measured.figures["answered"])
        if stored < answered:
            lost = f"{answered - stored} of {answered} jobs were acknowledged and are not in the queue"
            return Measurement(measured.figures, (*measured.notes, lost))
        return measured

    return run


def _asgi(bench: Bench, body: bytes, connections: int, goal: float | None = None) -> Iterator[Contender]:
    def ceiling(server: Target) -> Callable[[float], Measurement]:
        request = wrk.Request("POST" if body else "GET", f"{server.url}/queues/q/jobs", "t", body)
        return lambda seconds: _drive(bench, server, request, connections, seconds)

    for server in bench.asgi:
        yield Contender(server.name, ceiling(server), ceiling=True, goal=goal)


def _drive(
    bench: Bench, target: Target, request: wrk.Request, connections: int, seconds: float, jobs: int = 1
) -> Measurement:
    meter = Meter(target, bench.store(target))
    seen = wrk.load(request, connections, seconds)
    answered = (seen.requests - seen.bad_status) * jobs
    notes = []
    if seen.bad_status:
        notes.append(f"{seen.bad_status} of {seen.requests} answers were 400 or above")
    if seen.broken:
        notes.append(f"{seen.broken} connections or requests broke")
    if seen.busy > 0.9:
        notes.append(f"the load generator was {seen.busy:.0%} busy: the server may be faster than this")
    figures = {
        "per_s": seen.per_s * jobs,
        "p50_ms": seen.p50_us / 1e3,
        "p99_ms": seen.p99_us / 1e3,
        "busy": seen.busy,
        "answered": float(answered),
        **meter.per(answered),
    }
    return Measurement(figures, tuple(notes))
