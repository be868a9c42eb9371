"""Wires what an instance has of Redis: connections, BullMQ's scripts, and all that is read and written through them.

For `toril.bootstrap.instance`. What is made here does nothing before its tasks run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from importlib.metadata import version as installed
from typing import Any

import structlog

from toril.adapters.redis_attempts import RedisAttempts
from toril.adapters.redis_clock import RedisClock
from toril.adapters.redis_registry import RedisRegistry
from toril.bull.cancelling import Cancelling
from toril.bull.cluster import ClusterLinks
from toril.bull.connection import Link, Prepare
from toril.bull.control import Control
from toril.bull.events import EventStreams
from toril.bull.flows import Flows
from toril.bull.inspector import Inspector
from toril.bull.job_actions import JobActions
from toril.bull.leased_queues import LeasedQueueSet
from toril.bull.leases import LeaseBook
from toril.bull.links import FollowingLink, KeyPlace
from toril.bull.markers import Markers
from toril.bull.paused_lists import PausedLists
from toril.bull.presence import PresenceConnections
from toril.bull.producer import Producer
from toril.bull.queue_names import QueueNames
from toril.bull.schedulers import Schedulers
from toril.bull.scripts import Scripts
from toril.bull.settled_news import SettledNewsLists
from toril.bull.wire import Wire
from toril.core.errors import StoreRefused, StoreUnavailable
from toril.core.policy import Settings
from toril.core.ports.shared import Meter

log = structlog.get_logger(__name__)

_FOLLOW_PATIENCE_S = 10.0


async def _nothing(wire: Wire) -> None:
    """Prepare nothing: scripts are loaded where one is missing."""


def _links(
    settings: Settings, tasks: asyncio.TaskGroup, prepare: Prepare, meter: Meter, name: str
) -> Link | ClusterLinks:
    if settings.redis.cluster:
        return ClusterLinks(settings.redis, settings.store, tasks, prepare, meter)
    return Link(settings.redis, settings.store, name=name, prepare=prepare, meter=meter)


class Store:
    """Redis, as one instance sees it. Its parts are what the doors and the engine are handed.

    Args:
        settings: where Redis is, and the names of what is in it.
        meter: told how connections fare.
        instance_id: what others tell this instance by.
        break_off: told of each cancelled job: its queue and its id.
    """

    def __init__(
        self,
        settings: Settings,
        tasks: asyncio.TaskGroup,
        meter: Meter,
        instance_id: str,
        break_off: Callable[[str, bytes], None],
    ) -> None:
        self._settings = settings
        store, engine = settings.store, settings.engine
        self._eviction_checked = False
        self.clock = RedisClock()
        self.prefix = prefix = store.queue_prefix
        self.links = _links(settings, tasks, self._prepare, meter, "toril")
        # What may be large is read over another connection than the one on which leases are renewed.
        self._large_reads = _links(settings, tasks, _nothing, meter, "toril:reading")
        self.reading = Scripts(self._large_reads)
        place = KeyPlace(self.links, store.worker_stream.encode())
        self.following = FollowingLink(place, store, name="toril:registry", patience_s=_FOLLOW_PATIENCE_S, meter=meter)
        self.scripts = Scripts(self.links)
        self.registry = RedisRegistry(self._registry_command, self.following.call, store)
        self.attempts = RedisAttempts(self.near_key, prefix)
        self.markers = Markers(self.links, store, tasks, meter)
        self.presence = PresenceConnections(settings.redis, store, tasks, meter)
        self.events = EventStreams(self.links, store, tasks, meter)
        self._paused_lists = PausedLists(self.scripts)
        self.inspector = Inspector(self.scripts, prefix, self.reading)
        self.job_actions = JobActions(self.scripts, prefix, self.clock, self.reading)
        self.queue_names = QueueNames(self.links, prefix)
        noting = self.queue_names.note
        self.control = Control(self.scripts, self.inspector, prefix, self.clock, noting)
        self.schedulers = Schedulers(self.scripts, prefix, lambda: int(self.clock() * 1000), noting)
        self.leases = LeaseBook(
            self.scripts,
            self.schedulers,
            prefix,
            lock_ms=round(engine.lock_s * 1000),
            # A little less than the interval, so that the next sweep does not find this one's mark still there.
            stalled_ms=max(1, round(engine.stalled_interval_s * 900)),
            now=self.clock,
        )
        self.leased = LeasedQueueSet(self.links, prefix, self.clock)
        self.settled_news = SettledNewsLists(self.links, store, instance_id)
        self.producer = Producer(
            self.scripts, prefix, f"bullmq:{installed('bullmq')}", cache=store.queue_cache_size, noting=noting
        )
        self.flows = Flows(self.scripts, self.producer, self.inspector, self.job_actions, prefix)
        self.cancelling = Cancelling(self.links, self.scripts, store, break_off)

    def tasks(self) -> list[tuple[str, Coroutine[Any, Any, None]]]:
        """What is to run for as long as the instance does, by name."""
        return [
            ("redis", self.links.run()),
            ("redis-reading", self._large_reads.run()),
            ("clock", self.clock.run(self._time)),
            ("markers", self.markers.run()),
            ("presence", self.presence.run()),
            ("paused-lists", self._paused_lists.run()),
            ("queue-names", self.queue_names.run()),
            ("attempts", self.attempts.run()),
        ]

    async def check(self) -> None:
        """See that Redis holds nothing that is in toril's way; says nothing while Redis is away.

        Raises:
            StoreError: it does.
        """
        try:
            await self.links.refresh()
            await self.registry.check()
        except StoreUnavailable as exc:
            log.warning("redis.unavailable_at_start", error=exc.message)

    async def near_key(self, *args: str | bytes | int | float) -> Any:
        """A command on the node of its key: the first one of an EVAL, or what stands behind the command's name."""
        key = str(args[3] if args[0] in ("EVAL", "EVALSHA") else args[1]).encode()
        return await self.links.of(key).call(*args)

    async def _prepare(self, wire: Wire) -> None:
        await self.scripts.load(wire)
        if not (self._settings.redis.cluster and self.clock.measured):
            # Before the first command, so that none is sent with the time of this machine.
            try:
                await self.clock.measure(lambda: wire.call("TIME"))
            except StoreRefused as exc:
                log.warning("clock.not_measured", error=exc.message, hint="due times go by the clock of this machine")
        if not self._eviction_checked:
            self._eviction_checked = True
            policy = await wire.call("INFO", "memory")
            if b"maxmemory_policy:" in policy and b"maxmemory_policy:noeviction" not in policy:
                log.warning("redis.may_evict", hint="set maxmemory-policy to noeviction, or jobs will be lost")

    async def _time(self) -> Any:
        """Redis' time; in a cluster always that of the same key's node."""
        return await self.links.of(f"{self.prefix}:toril:clock".encode()).call("TIME")

    async def _registry_command(self, *args: str | bytes | int | float) -> Any:
        return await self.links.of(self._settings.store.worker_hash.encode()).call(*args)
