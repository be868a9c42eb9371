"""What every scenario works with: targets, their Redis, the endpoint, the options, fresh queue names."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.endpoint import Endpoint
from benchmarks.measurement import Figures
from benchmarks.store import Store
from benchmarks.target import Target


@dataclass(frozen=True)
class Options:
    """How hard and how long; the command line's part of every scenario."""

    seconds: float
    push_jobs_per_s: int
    latency_rate: float
    latency_seconds: float
    idle_workers: int
    idle_seconds: float
    idle_settle_s: float
    clients: tuple[str, ...]
    client_python: str
    prefix: str


@dataclass
class Bench:
    """Everything the scenarios work with. Queue names are unique, so no run meets another one's leftovers."""

    targets: Sequence[Target]
    stores: dict[str, Store]
    options: Options
    asgi: Sequence[Target] = ()
    storing: Sequence[Target] = ()
    endpoint: Endpoint | None = None
    script_redis: str | None = None
    _run: str = field(default_factory=lambda: secrets.token_hex(3))
    _queues: int = 0

    def queue(self, kind: str) -> str:
        self._queues += 1
        return f"bench-{kind}-{self._run}-{self._queues}"

    def push_jobs(self, seconds: float) -> int:
        """How many jobs to drain in a push run of about this length."""
        return max(1_000, round(seconds * self.options.push_jobs_per_s))

    def store(self, target: Target) -> Store | None:
        return self.stores.get(target.redis_url) if target.redis_url else None

    def endpoint_or_fail(self) -> Endpoint:
        """The endpoint, which `run` starts whenever a chosen scenario needs it."""
        assert self.endpoint is not None
        return self.endpoint

    @contextmanager
    def queue_of(self, target: Target, kind: str) -> Iterator[str]:
        """A fresh queue; its keys are deleted afterwards where we know the target's Redis."""
        queue = self.queue(kind)
        try:
            yield queue
        finally:
            store = self.store(target)
            if store is not None:
                store.forget(queue)


class Meter:
    """CPU that a target and its Redis use from now on."""

    def __init__(self, target: Target, store: Store | None) -> None:
        self._target, self._store = target, store
        self._server_s = target.cpu_s()
        self._store_s = store.cpu_s() if store is not None else None

    def per(self, count: int) -> Figures:
        """Microseconds of CPU per operation; absent where it can't be known."""
        figures: Figures = {}
        if count and self._server_s is not None:
            figures["server_us"] = ((self._target.cpu_s() or 0.0) - self._server_s) / count * 1e6
        if count and self._store is not None and self._store_s is not None:
            figures["store_us"] = (self._store.cpu_s() - self._store_s) / count * 1e6
        return figures
