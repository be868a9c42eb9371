"""Wires everything of an instance that uses Redis: connections, BullMQ's scripts, readers and writers.

For `toril.instance.instance`. What is made here does nothing before its tasks run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from importlib.metadata import version as installed
from typing import Any

import structlog

from toril.bullmq.acknowledged.adds import AcknowledgedFlows, AcknowledgedProducer
from toril.bullmq.acknowledged.cancels import AcknowledgedCancels
from toril.bullmq.acknowledged.settlements import AcknowledgedSettlements, Told, UnconfirmedLog
from toril.bullmq.announcements import Announcements, Hearing
from toril.bullmq.cancelling import Cancelling
from toril.bullmq.control import Control
from toril.bullmq.events import EventStreams
from toril.bullmq.flows import Flows
from toril.bullmq.groups.control import GroupControl
from toril.bullmq.inspector import Inspector
from toril.bullmq.job_actions import JobActions
from toril.bullmq.job_scanner import RedisJobScanner
from toril.bullmq.leasing.active_jobs import ActiveJobReader
from toril.bullmq.leasing.leased_queues import LeasedQueueSet
from toril.bullmq.leasing.leases import LeaseStores
from toril.bullmq.leasing.queue_survey import RedisQueueSurvey
from toril.bullmq.lua.paused_lists import PausedLists
from toril.bullmq.lua.scripts import Scripts
from toril.bullmq.markers import Markers
from toril.bullmq.ports.jobs import FlowStore, JobProducer
from toril.bullmq.presence import PresenceConnections
from toril.bullmq.producer import Producer
from toril.bullmq.queue_names import QueueNameIndex
from toril.bullmq.schedulers import Schedulers
from toril.bullmq.settlement_notifications import RedisSettlementNotifications
from toril.config.settings import Settings
from toril.core.errors import StoreRefused, StoreUnavailable
from toril.core.ports import Meter
from toril.queues.connected.open_workers import OpenWorkers
from toril.queues.redis_attempts import RedisAttempts
from toril.queues.redis_registry import RedisRegistry
from toril.redis.absent import AbsentRedis
from toril.redis.clock import RedisClock
from toril.redis.cluster import ClusterLinks
from toril.redis.confirmations import Confirmations
from toril.redis.connection import Link, Prepare
from toril.redis.links import FollowingLink, KeyPlace
from toril.redis.resp import Wire
from toril.redis.sentinel import SentinelLink, Sentinels
from toril.web.audit import AuditLog
from toril.web.audit_trail import AuditTrail, RedisLines

log = structlog.get_logger(__name__)

_FOLLOW_PATIENCE_S = 10.0


async def _nothing(wire: Wire) -> None:
    """Prepare nothing: scripts are loaded where one is missing."""


def _links(
    settings: Settings,
    sentinels: Sentinels | None,
    tasks: asyncio.TaskGroup,
    prepare: Prepare,
    meter: Meter,
    name: str,
) -> Link | ClusterLinks | AbsentRedis:
    if settings.without_redis:
        return AbsentRedis()
    if settings.redis.cluster:
        return ClusterLinks(settings.redis, settings.store, tasks, prepare, meter)
    if sentinels is not None:
        return SentinelLink(sentinels, settings.store, name=name, prepare=prepare, meter=meter)
    return Link(settings.redis, settings.store, name=name, prepare=prepare, meter=meter)


class Store:
    """Everything of an instance that uses Redis. The doors and the engine get its parts.

    Without Redis (`redis: none`) all of it refuses what it is asked for, except the clock, and it has no tasks.

    Args:
        settings: where Redis is, and the names of what is in it.
        meter: told how connections fare.
        instance_id: what others tell this instance by.
        hearing: told of cancelled jobs and lifted limits.
    """

    def __init__(
        self,
        settings: Settings,
        tasks: asyncio.TaskGroup,
        meter: Meter,
        instance_id: str,
        hearing: Hearing,
    ) -> None:
        self._settings = settings
        store, engine = settings.store, settings.engine
        self._eviction_checked = False
        self.clock = RedisClock()
        self.prefix = prefix = store.queue_prefix
        self._sentinels = Sentinels(settings.redis, store) if settings.redis.sentinels else None
        self.links = _links(settings, self._sentinels, tasks, self._prepare, meter, "toril")
        # What may be large is read over another connection than the one on which leases are renewed.
        self._large_reads = _links(settings, self._sentinels, tasks, _nothing, meter, "toril:reading")
        self.reading = Scripts(self._large_reads)
        place = KeyPlace(self.links, store.worker_stream.encode())
        self.following = FollowingLink(place, store, name="toril:registry", patience_s=_FOLLOW_PATIENCE_S, meter=meter)
        self.scripts = Scripts(self.links)
        self.acknowledge = store.acknowledge
        self.confirmations = Confirmations(
            self.links,
            store,
            tasks,
            always=store.worker_stream.encode(),
            failing_over=self._sentinels.failing_over if self._sentinels is not None else None,
        )
        self._tasks, self._unconfirmed = tasks, UnconfirmedLog()
        # Of workers whose connection is over when their job is settled.
        self.unattended = self.settlements()
        self.registry = RedisRegistry(self.links, self.following.call, store)
        self.attempts = RedisAttempts(self.links, prefix)
        self.open_workers = OpenWorkers(self.links, prefix, instance_id, self.clock)
        self.markers = Markers(self.links, store, tasks, meter)
        self.survey = RedisQueueSurvey(self.links, prefix, self.clock)
        self.presence = PresenceConnections(self.links, settings.redis, store, tasks, meter)
        self.events = EventStreams(self.links, store, tasks, meter)
        self._paused_lists = PausedLists(self.scripts)
        self.inspector = Inspector(self.scripts, prefix, self.reading)
        self.scanner = RedisJobScanner(self.reading, prefix)
        self.active_jobs = ActiveJobReader(self.reading, prefix)
        self.job_actions = JobActions(self.scripts, prefix, self.clock, self.reading)
        self.audit_trail = AuditTrail(RedisLines(self.links, prefix), self.clock)
        self.audit = AuditLog(self.audit_trail)
        self.queue_names = QueueNameIndex(self.links, prefix)
        noting = self.queue_names.note
        self.announcements = Announcements(self.links, store, hearing)
        self.control = Control(
            self.scripts, self.inspector, self.announcements.limit_lifted, prefix, self.clock, noting
        )
        self.schedulers = Schedulers(self.scripts, prefix, lambda: int(self.clock() * 1000), noting)
        self.leases = LeaseStores(
            self.scripts,
            self.schedulers,
            prefix,
            lock_ms=round(engine.lock_s * 1000),
            # A little less than the interval, so that the next sweep does not find this one's mark still there.
            stalled_ms=max(1, round(engine.stalled_interval_s * 900)),
            now=self.clock,
        )
        self.leases.held.follow(meter)
        self.groups = GroupControl(self.scripts, prefix, self.leases.defaults)
        self.leased = LeasedQueueSet(self.links, prefix, self.clock)
        self.settlement_notifications = RedisSettlementNotifications(self.links, store, instance_id)
        self.producer = Producer(
            self.scripts,
            prefix,
            f"bullmq:{installed('bullmq')}",
            cache=store.queue_cache_size,
            noting=noting,
            meter=meter,
        )
        self.producer.clock = self.clock
        self.flows = Flows(self.scripts, self.producer, self.inspector, self.job_actions, prefix)
        # What callers are told of is confirmed; what instances add by themselves, and what a ledger has, need not be.
        self.acknowledged_producer: JobProducer = self.producer
        self.acknowledged_flows: FlowStore = self.flows
        if self.confirmations.wanted:
            self.acknowledged_producer = AcknowledgedProducer(self.producer, self.confirmations, prefix)
            self.acknowledged_flows = AcknowledgedFlows(self.flows, self.confirmations, prefix)
        self.cancelling = Cancelling(self.scripts, prefix, self.announcements)
        self.acknowledged_cancels = AcknowledgedCancels(self.cancelling, self.confirmations, prefix)

    @property
    def master_fault(self) -> str | None:
        """Why the Sentinels do not name the master; None if they do, or there are none."""
        return None if self._sentinels is None else self._sentinels.fault

    def settlements(self, told: Told | None = None) -> AcknowledgedSettlements | None:
        """Return what confirms settlements as `acknowledge` asks, and calls `told`; None with `memory`."""
        if not self.confirmations.wanted:
            return None
        return AcknowledgedSettlements(self.confirmations, self.prefix, self._tasks, self._unconfirmed, told)

    def connecting(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """Return the tasks that connect to Redis, by name: what a command needs that does nothing else."""
        asking = [] if self._sentinels is None else [("sentinels", self._sentinels.run())]
        return [*asking, ("redis", self.links.run())]

    def tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """Return the tasks that run as long as the instance does, by name."""
        if self._settings.without_redis:
            return []
        return [
            *self.connecting(),
            ("redis-reading", self._large_reads.run()),
            ("clock", self.clock.run(self._time)),
            ("confirmations", self.confirmations.run()),
            ("announcements", self.announcements.run()),
            ("markers", self.markers.run()),
            ("presence", self.presence.run()),
            ("paused-lists", self._paused_lists.run()),
            ("queue-names", self.queue_names.run()),
            ("audit-trail", self.audit_trail.run()),
            ("attempts", self.attempts.run()),
            ("open-workers", self.open_workers.run()),
        ]

    async def check(self) -> None:
        """Check that no key in Redis is in toril's way; does nothing while Redis is away.

        Raises:
            StoreError: it does.
        """
        if self._settings.without_redis:
            return
        try:
            await self.links.refresh()
            await self.registry.check()
        except StoreUnavailable as exc:
            log.warning("redis.unavailable_at_start", error=exc.message)

    async def _prepare(self, wire: Wire) -> None:
        await self.scripts.load(wire)
        if not (self._settings.redis.cluster and self.clock.measured):
            # Before the first command, so that none is sent with the time of this machine.
            try:
                await self.clock.measure(lambda: wire.call("TIME"))
            except StoreRefused as exc:
                log.warning("clock.not_measured", error=exc.message, hint="due times use the clock of this machine")
        if not self._eviction_checked:
            self._eviction_checked = True
            policy = await wire.call("INFO", "memory")
            if b"maxmemory_policy:" in policy and b"maxmemory_policy:noeviction" not in policy:
                log.warning("redis.may_evict", hint="set maxmemory-policy to noeviction, or jobs will be lost")

    async def _time(self) -> Any:
        """Return the time of Redis; in a cluster always of the same node, by a key."""
        return await self.links.of(f"{self.prefix}:toril:clock".encode()).call("TIME")
