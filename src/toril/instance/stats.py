"""Wires the statistics: writes the measurements of this process to those of the fleet, and reads these."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Protocol

import structlog
from msgspec import Struct

from toril.bullmq.depths import DepthReader
from toril.bullmq.ports.queues import QueueNames
from toril.bullmq.rules.queue_name import NameRules
from toril.config.settings import Settings
from toril.core.access import Caller
from toril.core.ports import Now, QueueDepths
from toril.delivery.ports import Breakers
from toril.delivery.postgres_queue.queue import PostgresQueue
from toril.delivery.rules.delivery import target_of
from toril.delivery.rules.target import TargetSpec
from toril.delivery.target_facts import TargetFacts
from toril.instance.health import HealthChecks
from toril.instance.store import Store
from toril.proxy.rules.upstream import callback_queue, queue_name
from toril.queues.worker_facts import WorkerFacts
from toril.telemetry.failures import Failures, FleetFailures
from toril.telemetry.measures import Measures
from toril.telemetry.prometheus_meter import PrometheusMeter
from toril.telemetry.recent_attempts import PointsReader, RecentAttemptCounts
from toril.telemetry.redis_failures import RedisFailures
from toril.telemetry.redis_points import RedisPoints
from toril.telemetry.statistics import PointsWriter, Statistics
from toril.telemetry.watched_depths import WatchedDepths
from toril.web.operations.attention import Working
from toril.web.operations.overview import DoorKnowledge, Overview, OverviewSources
from toril.web.operations.stats import StatsRoutes
from toril.web.operations.stats_shapes import Door, Fact, Place, RegisteredWorker
from toril.web.routing import Route

log = structlog.get_logger(__name__)

_FLUSH_S = 2.0
_PAGE = 1_000
_MOST_QUEUES = 10_000


class KnownTargets(Protocol):
    """The targets that run here, and their breakers."""

    @property
    def breakers(self) -> Breakers:
        """The breakers of all targets."""
        ...

    def specs(self) -> Sequence[TargetSpec]:
        """Return every target as it runs now."""
        ...


class UpstreamFacts:
    """Facts about upstreams for the overview: how many there are. Their queues tell the rest."""

    door: Door = "proxy"

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues = queues

    async def facts(self, caller: Caller) -> list[Fact]:
        """Return nothing: an upstream has no state beside that of its queue."""
        return []

    async def sizes(self, caller: Caller) -> dict[str, int]:
        """Return how many upstreams there are whose queue the caller sees."""
        return {"upstreams": sum(map(caller.sees, self._queues))}


class FleetPoints(PointsWriter, PointsReader, Protocol):
    """Adds to the points of the fleet, and reads them."""


class StatisticsStore(Struct, frozen=True):
    """Where the fleet has its statistics, and what else they tell about queues.

    `held_ms` returns for how long a queue is held, `paused_since_ms` since when it is paused. `redis` has the
    registered workers; None where there are none, because there is no Redis.
    """

    points: FleetPoints
    failures: FleetFailures
    depths: QueueDepths
    names: QueueNames
    held_ms: Callable[[str], Awaitable[int]]
    paused_since_ms: Callable[[str], Awaitable[int | None]]
    now: Now
    redis: Store | None = None


def statistics_in_redis(store: Store) -> StatisticsStore:
    """Return the statistics of a fleet over Redis."""

    async def held_ms(queue: str) -> int:
        return (await store.control.rate_limit(queue)).ttl_ms

    return StatisticsStore(
        RedisPoints(store.links, store.prefix),
        RedisFailures(store.links, store.prefix, store.clock),
        DepthReader(store.inspector, store.clock),
        store.queue_names,
        held_ms,
        store.control.paused_since_ms,
        store.clock,
        store,
    )


def statistics_in_postgres(queue: PostgresQueue, names: QueueNames, now: Now) -> StatisticsStore:
    """Return the statistics of a fleet over PostgreSQL alone, whose only queues are those of these targets."""
    control = queue.control
    return StatisticsStore(
        queue.points, queue.failures(now), queue.jobs, names, control.held_ms, control.paused_since_ms, now
    )


class FleetStats:
    """The statistics of one instance.

    Args:
        store: where the fleet has them.
        meter: what is measured here.
        measures: notes from now on why attempts fail here.
        targets: None if there are none.
    """

    def __init__(
        self,
        settings: Settings,
        store: StatisticsStore,
        meter: PrometheusMeter,
        measures: Measures,
        targets: KnownTargets | None,
    ) -> None:
        self._store = store
        self._targets = targets
        self._answers = settings.role.answers
        self._upstreams = [queue_name(settings.proxy.queue, one.prefix) for one in settings.proxy.upstreams]
        self._proxied = {*self._upstreams, callback_queue(settings.proxy.queue)} if self._upstreams else set()
        self.recent = RecentAttemptCounts(store.points, store.now)
        failures = measures.failures = Failures()
        self._statistics = Statistics(
            meter, store.points, failures, store.failures, lambda queue: self.place(queue).door, store.now
        )
        self._depths = WatchedDepths(store.depths, self._names)

    def place(self, queue: str) -> Place:
        """Return the door of a queue, and the name to show for it."""
        if queue in self._proxied:
            return Place("proxy", queue)
        name = target_of(queue)
        if self._targets is not None and name is not None and any(spec.name == name for spec in self._targets.specs()):
            return Place("delivery", name)
        return Place("queues", queue)

    def tasks(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Yield the tasks that run as long as the instance does, by name."""
        yield "statistics", self._statistics.run()
        if self._answers:
            yield "watched-depths", self._depths.run()

    async def flush(self) -> None:
        """Write the measurements since the last write, before the instance ends."""
        try:
            async with asyncio.timeout(_FLUSH_S):
                await self._statistics.flush()
        except TimeoutError:
            log.debug("stats.not_flushed")

    def routes(self, health: Callable[[], HealthChecks], names: NameRules) -> list[Route]:
        """Return the routes of the statistics. `health` is called for each request."""
        store, redis = self._store, self._store.redis
        workers = None if redis is None else WorkerFacts(redis.registry, names)
        doors: list[DoorKnowledge] = [] if workers is None else [workers]
        if self._upstreams:
            doors.append(UpstreamFacts(self._upstreams))
        if self._targets is not None:
            doors.append(TargetFacts(self._targets.specs, self._targets.breakers))

        async def working(queue: str) -> Working:
            held_ms = await store.held_ms(queue)
            if redis is None or workers is None or self.place(queue).door != "queues":
                return Working(True, held_ms)
            if await workers.has_worker(queue):
                return Working(True, held_ms)
            return Working(bool(await redis.control.workers(queue)), held_ms)

        async def paused_since_s(queue: str) -> float | None:
            since_ms = await store.paused_since_ms(queue)
            return None if since_ms is None else since_ms / 1000

        async def faults() -> list[str]:
            return await health().faults()

        overview = Overview(
            OverviewSources(
                store.points,
                self.recent,
                store.failures,
                self._depths,
                self.place,
                working,
                paused_since_s,
                doors,
                faults,
                store.now,
            )
        )
        worker_of = _no_worker if workers is None else workers.worker
        return StatsRoutes(overview, store.points, worker_of, names=names, now=store.now).routes()

    async def _names(self) -> list[str]:
        found: list[str] = []
        while len(found) < _MOST_QUEUES:
            page = await self._store.names.page(found[-1] if found else "", _PAGE)
            found += page
            if len(page) < _PAGE:
                break
        return found


async def _no_worker(queue: str) -> RegisteredWorker | None:
    """Return None: without Redis no workers are registered."""
    return None
