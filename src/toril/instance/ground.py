"""What an instance stands on: Redis, or the ledger's PostgreSQL alone (`redis: none`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import structlog

from toril.bullmq.announcements import Hearing
from toril.bullmq.ports.groups import GroupStore
from toril.config.settings import Settings
from toril.core.ports import Meter, RateLimits
from toril.delivery.postgres_queue.presence import NoPresence
from toril.delivery.postgres_queue.queue import PostgresQueue, QueueContext
from toril.engine.ports import MarkerWaits, Presence
from toril.engine.queue_survey import EVERY_QUEUE, QueueSurvey
from toril.instance.delivery_store import DeliveryStore, in_postgres, in_redis
from toril.instance.process_rates import ProcessRates
from toril.instance.stats import StatisticsStore, statistics_in_postgres, statistics_in_redis
from toril.instance.store import Store
from toril.web.audit import AuditLog
from toril.web.audit_trail import AuditTrail
from toril.web.redis_rates import RedisRates

log = structlog.get_logger(__name__)


class Ground:
    """Where an instance has its queues, and what it shares with others.

    Args:
        settings: say whether there is a Redis.
        store: Redis, or what refuses everything where there is none.
        meter: counts jobs that are added.
        instance_id: what others tell this instance by.
        hearing: told of cancelled jobs and lifted limits.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        meter: Meter,
        instance_id: str,
        hearing: Hearing,
    ) -> None:
        self._store = store
        self._lost: Callable[[], None] = lambda: None
        self._queue: PostgresQueue | None = None
        self.delivery: DeliveryStore
        self.statistics: StatisticsStore
        self.waits: MarkerWaits = store.markers
        self.presence: Presence = store.presence
        self.survey: QueueSurvey = store.survey
        self.rates: RateLimits = RedisRates(store.links)
        self.audit, self.audit_trail = store.audit, store.audit_trail
        if not settings.without_redis:
            self.delivery = in_redis(store)
            self.statistics = statistics_in_redis(store)
            return
        names = [target.name for target in settings.targets]
        leases = store.leases
        context = QueueContext(instance_id, hearing, meter, leases.defaults, leases.held, self._was_away)
        self._queue = queue = PostgresQueue(settings.ledger.url, context, lock_s=settings.engine.lock_s)
        self.delivery = in_postgres(queue, names, store.clock)
        self.statistics = statistics_in_postgres(queue, self.delivery.names, store.clock)
        self.audit_trail = AuditTrail(queue.audit_lines, store.clock)
        self.audit = AuditLog(self.audit_trail)
        self.waits, self.presence, self.rates = queue.waits, NoPresence(), ProcessRates(time.monotonic)
        self.survey = EVERY_QUEUE

    @property
    def groups(self) -> GroupStore:
        """The groups of all queues."""
        return self._store.groups if self._queue is None else self._queue.groups

    @property
    def has_redis(self) -> bool:
        """True if there is a Redis, so that all doors work."""
        return self._queue is None

    def tasks(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Yield the tasks that run as long as the instance does, by name."""
        if self._queue is None:
            yield from self._store.tasks()
            return
        log.info("redis.none", hint="only the delivery door works; routes of other doors answer 501 no_redis")
        yield "queues", self._queue.run()
        yield "audit-trail", self.audit_trail.run()
        yield "clock", self._store.clock.run(self._queue.time)

    def on_lost(self, call: Callable[[], None]) -> None:
        """Call this when the queues' PostgreSQL was away, which may have lost the last jobs."""
        self._lost = call

    def _was_away(self) -> None:
        self._lost()

    async def reached(self, tasks: asyncio.TaskGroup) -> None:
        """Start nothing but the connections to the queues, and wait for them.

        Raises:
            StoreUnavailable: Redis was not there in time.
        """
        if self._queue is None:
            for name, work in self._store.connecting():
                tasks.create_task(work, name=name)
            await self._store.links.refresh()  # the map of a cluster is not read yet
            await self._store.links.check()
        else:
            tasks.create_task(self._queue.run(), name="queues")
            await self._queue.open.wait()

    async def ping(self) -> bool:
        """Return True once Redis has answered, False where there is none. Raises `StoreError`."""
        if self._queue is not None:
            return False
        await self._store.links.check()
        return True
