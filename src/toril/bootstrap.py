"""The only place that wires objects together: settings in, a running instance out."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version as installed
from typing import Any

import structlog
from starlette.types import ASGIApp

from toril import __version__, bootstrap_delivery
from toril.adapters.busy_time import busy_s
from toril.adapters.httptools_outbound import HttptoolsOutbound
from toril.adapters.obstore_blobs import S3Access, open_blobs
from toril.adapters.prometheus_exposition import PrometheusExposition
from toril.adapters.prometheus_meter import PrometheusMeter
from toril.adapters.redis_attempts import RedisAttempts
from toril.adapters.redis_rates import RedisRates
from toril.adapters.redis_registry import RedisRegistry
from toril.bootstrap_delivery import Delivery
from toril.bootstrap_proxy import Proxy, Shared
from toril.bootstrap_targets import Around, Targets
from toril.bull.cancelling import Cancelling
from toril.bull.cluster import ClusterLinks
from toril.bull.connection import Link
from toril.bull.control import Control
from toril.bull.depths import Depths
from toril.bull.events import EventStreams
from toril.bull.flows import Flows
from toril.bull.inspector import Inspector
from toril.bull.job_actions import JobActions
from toril.bull.leased_queues import LeasedQueueSet
from toril.bull.leases import LeaseBook
from toril.bull.markers import Markers
from toril.bull.paused_lists import PausedLists
from toril.bull.presence import PresenceConnections
from toril.bull.producer import Producer
from toril.bull.schedulers import Schedulers
from toril.bull.scripts import Scripts
from toril.bull.settled_news import SettledNewsLists
from toril.bull.upkeep import Upkeep
from toril.bull.wire import SlotMoved, Wire
from toril.config.logs import set_level
from toril.config.reloading import ConfigFile, Reloading
from toril.config.rollout import Plan
from toril.core.attempt import attempt_of
from toril.core.destinations.base import Destination
from toril.core.destinations.push_worker import PushWorker
from toril.core.destinations.target import Target
from toril.core.destinations.upstream import UpstreamDestination
from toril.core.egress import Egress
from toril.core.errors import StoreError, StoreUnavailable
from toril.core.lease import Lease
from toril.core.lock_tokens import LockTokens
from toril.core.outcome import Outcome
from toril.core.policy import GatewayPolicy, RedisAddress, Settings
from toril.core.ports import BlobStore, Outbound
from toril.core.queue_name import NameRules
from toril.core.target import PayloadPolicy
from toril.core.verdict import Verdict
from toril.core.worker import read_worker
from toril.engine.accept_first import AcceptFirst
from toril.engine.consumer import Consumer, Surroundings
from toril.engine.executor import Executor
from toril.engine.handovers import Handovers
from toril.engine.ledger_recoverer import Recovered
from toril.engine.loop_lag import LoopLag
from toril.engine.measures import Measures
from toril.engine.pulls import Pulls
from toril.engine.reconciler import Reconciler
from toril.engine.seats import Seats
from toril.engine.settler import Settler
from toril.engine.shared_waits import SharedWaits
from toril.engine.supervisor import Supervisor
from toril.gateway.admission import Admission
from toril.gateway.app import Gateway
from toril.gateway.auth import Tokens
from toril.gateway.docs import DocsRoutes
from toril.gateway.events import EventRoutes
from toril.gateway.family import Family
from toril.gateway.flows import FlowRoutes
from toril.gateway.job_actions import Expansion, JobActionRoutes
from toril.gateway.jobs import JobRoutes
from toril.gateway.leases import LeaseRoutes
from toril.gateway.metrics import MetricsRoutes
from toril.gateway.openapi import Served
from toril.gateway.ops import OpsRoutes
from toril.gateway.proxy_description import described
from toril.gateway.queue_actions import QueueActionRoutes
from toril.gateway.queues import QueueRoutes
from toril.gateway.reloads import ReloadRoutes
from toril.gateway.routing import Route, SocketRoute
from toril.gateway.schedulers import SchedulerRoutes
from toril.gateway.sockets.events import EventSocketRoutes
from toril.gateway.sockets.queue import QueueSocketRoutes
from toril.gateway.sockets.worker import WorkerSocketRoutes
from toril.gateway.targets import Sights, TargetRoutes
from toril.gateway.upkeep import UpkeepRoutes
from toril.gateway.workers import WorkerRoutes
from toril.intake.spill import Spill
from toril.intake.switched_blobs import SwitchedBlobs

log = structlog.get_logger(__name__)

_READY_S = 1.0
_REACH_S = 10.0
_FOLLOW_PATIENCE_S = 10.0
_SETTLE_PATIENCE_LOCKS = 2


class Instance:
    """One process of toril, wired up. `gateway` is the ASGI application.

    Args:
        settings: what to run with, as it was read.
        config: what it was read from, to be followed; None never changes.
        spread: makes the processes beside this one read it again too.
    """

    def __init__(
        self,
        settings: Settings,
        tasks: asyncio.TaskGroup,
        config: ConfigFile | None = None,
        spread: Callable[[], None] | None = None,
    ) -> None:
        self.settings = settings
        self._reloading = Reloading(
            config or ConfigFile({}, None, lambda _: settings), settings, self._take_over, spread
        )
        store, engine = settings.store, settings.engine
        self._tasks = tasks
        self._eviction_checked = False
        self._names = NameRules(
            settings.gateway.min_queue_name_length,
            settings.gateway.max_queue_name_length,
            store.queue_prefix if settings.redis.cluster else None,
        )
        self._meter = PrometheusMeter(settings.metrics.max_queues, time.time, settings.metrics.folder, engine.process)
        self._measures = Measures(self._meter, time.time)
        self._links: Link | ClusterLinks = (
            ClusterLinks(settings.redis, store, tasks, self._prepare, self._meter)
            if settings.redis.cluster
            else Link(settings.redis, store, prepare=self._prepare, meter=self._meter)
        )
        self._following = Link(
            self._registry_address,
            store,
            name="toril:registry",
            patience_s=_FOLLOW_PATIENCE_S,
            meter=self._meter,
        )
        self._scripts = Scripts(self._links)
        self._registry = RedisRegistry(self._registry_command, self._following.call, store)
        self._attempts = RedisAttempts(self._near_key, store.queue_prefix)
        self._markers = Markers(self._links, store, tasks, self._meter)
        self._presence = PresenceConnections(settings.redis, store, tasks, self._meter)
        self._events = EventStreams(self._links, store, tasks, self._meter)
        self._paused_lists = PausedLists(self._scripts, store.queue_prefix)
        self._inspector = Inspector(self._scripts, store.queue_prefix)
        self._job_actions = JobActions(self._scripts, store.queue_prefix, time.time)
        self._control = Control(self._scripts, self._inspector, store.queue_prefix, time.time, self._paused_lists.note)
        self._schedulers = Schedulers(self._scripts, store.queue_prefix, lambda: int(time.time() * 1000))
        self._leases = LeaseBook(
            self._scripts,
            self._schedulers,
            store.queue_prefix,
            lock_ms=round(engine.lock_s * 1000),
            # A little less than the interval, so that the next sweep does not find this one's mark still there.
            stalled_ms=max(1, round(engine.stalled_interval_s * 900)),
            now=time.time,
        )
        self._egress = Egress(settings.egress)
        self._outbound = HttptoolsOutbound(engine.connect_timeout_s, engine.max_response_bytes, self._egress)
        self._instance_id = instance_id = str(uuid.uuid4())
        leased = LeasedQueueSet(self._links, store.queue_prefix, time.time)
        self._handovers = Handovers(
            leased, SettledNewsLists(self._links, store, instance_id), instance_id=instance_id, now=time.time
        )
        self._settler = Settler(engine.lock_s * _SETTLE_PATIENCE_LOCKS, self._handovers, self._measures)
        self._around = Surroundings(
            tasks=tasks,
            waits=SharedWaits(self._markers),
            presence=self._presence,
            now=time.time,
            measures=self._measures,
            tokens=_lock_tokens(settings.gateway, instance_id),
        )
        self._accept_first = AcceptFirst(busy_s, time.monotonic)
        self._role = settings.role
        self.supervisor = Supervisor(
            self._consumer,
            engine,
            self._presence,
            self._markers.forget,
            self._measures,
            works=self._role.name != "gateway",
        )
        self._pulls = Pulls(self._leases, leased, self._around, self._handovers, self.supervisor.rules, random.random)
        self._reconciler = Reconciler(self._registry, self.supervisor, self._destination)
        self._following.on_reconnect(self._reconciler.missed)
        self._tokens = Tokens(settings.gateway.auth_tokens, settings.gateway.tokens)
        self._admission = Admission(self._tokens, RedisRates(self._near_key))
        self._producer = Producer(
            self._scripts,
            store.queue_prefix,
            f"bullmq:{installed('bullmq')}",
            cache=store.queue_cache_size,
            added=self._paused_lists.note,
        )
        self._flows = Flows(self._scripts, self._producer, self._inspector, self._job_actions, store.queue_prefix)
        self._cancelling = Cancelling(self._links, self._scripts, store, self._break_off)
        self._blobs = SwitchedBlobs(_open_blobs(settings.payloads))
        self._spill = Spill(self._blobs, settings.payloads.threshold_bytes)
        self._exposition = PrometheusExposition(
            self._meter,
            Depths(self._inspector, time.time),
            self._links.check,
            lambda: {consumer.queue for consumer in self.supervisor.consumers()},
            version=__version__,
            most_queues=settings.metrics.max_queues,
        )
        self._delivery = self._wire_delivery() if settings.targets else None
        self._targets = None if self._delivery is None else self._wire_targets(self._delivery)
        self.gateway = self._gateway()
        self._proxy = self._wire_proxy() if settings.proxy.upstreams else None
        self.app: ASGIApp = self.gateway
        if self._proxy is not None and self.proxies:
            self.app = self._proxy.door

    def start(self) -> None:
        """Connect and begin to work. Does not wait for Redis: until it is there, requests get 503."""
        for name, work in (
            ("redis", self._links.run()),
            ("markers", self._markers.run()),
            ("presence", self._presence.run()),
            ("supervisor", self.supervisor.run()),
            ("pulls", self._pulls.run()),
            ("paused-lists", self._paused_lists.run()),
            ("attempts", self._attempts.run()),
            ("handovers", self._handovers.run()),
            ("admission", self._admission.run()),
            ("config", self._reloading.run()),
            ("metrics", self._exposition.run()),
            ("loop-lag", LoopLag(self._meter).run()),
        ):
            self._tasks.create_task(work, name=name)
        if self._proxy is not None or self._delivery is not None:
            self._tasks.create_task(self._cancelling.run(), name="cancelling")
        if self._proxy is not None:
            for name, work in self._proxy.tasks():
                self._tasks.create_task(work, name=name)
            self._proxy.tell_where_answers_go(self.settings.payloads)
            for destination in self._proxy.destinations if self._role.works else ():
                self.supervisor.keep(destination)
        if self._follows_workers:
            self._tasks.create_task(self._following.run(), name="redis:registry")
            self._tasks.create_task(self._reconciler.run(), name="reconciler")
        if self._delivery is not None:
            for name, work in self._delivery.tasks():
                self._tasks.create_task(work, name=name)
        if self._targets is not None:
            for target in self._targets.destinations.values():
                if self._role.delivers_to(target.spec.name):
                    self.supervisor.keep(target)
        self._warn_of_no_tokens(self.settings.gateway)

    @property
    def _follows_workers(self) -> bool:
        """Whether it has to know the registered workers: to work for them, or to settle by their rules."""
        return self._role.works or self._role.answers

    def _take_over(self, plan: Plan) -> None:
        """From now on run with these settings, in all that a reload can change."""
        settings, self.settings = plan.settings, plan.settings
        if not {"tokens", "auth_tokens"}.isdisjoint(plan.applied):
            # What goes on with tokens that are gone is ended.
            self._tokens.replace(settings.gateway.auth_tokens, settings.gateway.tokens)
            self._admission.recheck()
            self._warn_of_no_tokens(settings.gateway)
        if self._delivery is not None:
            self._delivery.renew(settings)
        if "log.level" in plan.applied:
            set_level(settings.log.level)
        if not {"payloads.url", "payloads.endpoint", "payloads.region"}.isdisjoint(plan.applied):
            self._blobs.switch(_open_blobs(settings.payloads))
            if self._proxy is not None:
                self._proxy.tell_where_answers_go(settings.payloads)
        self._spill.threshold_bytes = settings.payloads.threshold_bytes
        if self._proxy is not None:
            self._proxy.renew(settings.payloads)
        if self._targets is not None:
            for target in self._targets.renew(settings):
                if self._role.delivers_to(target.spec.name):
                    self.supervisor.keep(target)

    def _warn_of_no_tokens(self, policy: GatewayPolicy) -> None:
        has_api = self._proxy is None or self.settings.proxy.api_path is not None
        if has_api and not any(policy.auth_tokens) and not policy.tokens:
            log.warning(
                "auth.no_tokens", hint="no API token is configured (AUTH_TOKENS, tokens): every request is refused"
            )

    async def check(self) -> None:
        """See that Redis holds nothing that is in toril's way; says nothing while Redis is away.

        Raises:
            StoreError: it does.
        """
        try:
            await self._links.refresh()
            await self._registry.check()
        except StoreUnavailable as exc:
            log.warning("redis.unavailable_at_start", error=exc.message)

    async def recover(self) -> Recovered:
        """Recover deliveries once, with nothing of this instance running but its connections.

        Raises:
            StoreUnavailable: Redis or the ledger was not there in time.
        """
        if self._delivery is None:
            return Recovered(Counter(), Counter(), Counter())
        self._tasks.create_task(self._links.run(), name="redis")
        self._tasks.create_task(self._delivery.ledger.run(), name="ledger")
        await self._links.check()
        await self._delivery.reached(_REACH_S)
        return await self._delivery.recoverer.recover()

    async def drain(self) -> None:
        """Take no new work, finish what is in flight within the grace period, give the rest back."""
        self.gateway.drain()
        if self._proxy is not None:
            self._proxy.door.draining = True
        self._events.close()
        if self._delivery is not None:
            self._delivery.close()
        self._pulls.close()
        if self._proxy is None:
            await self.supervisor.drain()
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.supervisor.drain())
            tasks.create_task(self._proxy.drain())

    @property
    def proxies(self) -> bool:
        """Whether it answers for upstreams."""
        return self._proxy is not None and self._role.answers

    def tunnels(self, target: bytes) -> bool:
        """Whether a WebSocket to this raw target is only passed on to an upstream."""
        return self._proxy is not None and self.proxies and self._proxy.door.tunnels(target)

    async def faults(self) -> list[str]:
        """What keeps this instance from moving work; empty when it is ready."""
        if self.gateway.draining:
            return ["shutting down"]
        try:
            async with asyncio.timeout(_READY_S):
                await self._links.check()
        except (StoreError, TimeoutError):
            return ["Redis does not answer"]
        if self._follows_workers and not self._reconciler.in_step:
            return ["the registered workers have not been read yet"]
        if self._delivery is not None and (faults := await self._delivery.faults()):
            return faults
        sluggish = self.supervisor.sluggish()
        return [f"{len(sluggish)} queue(s) are not being worked on"] if sluggish else []

    async def _prepare(self, wire: Wire) -> None:
        await self._scripts.load(wire)
        if not self._eviction_checked:
            self._eviction_checked = True
            policy = await wire.call("INFO", "memory")
            if b"maxmemory_policy:" in policy and b"maxmemory_policy:noeviction" not in policy:
                log.warning("redis.may_evict", hint="set maxmemory-policy to noeviction, or jobs will be lost")

    def _registry_address(self) -> RedisAddress:
        return self._links.of(self.settings.store.worker_stream.encode()).address

    async def _registry_command(self, *args: str | bytes | int | float) -> Any:
        return await self._links.of(self.settings.store.worker_hash.encode()).call(*args)

    async def _near_key(self, *args: str | bytes | int | float) -> Any:
        """A command on the node of its key: the first one of an EVAL, or what stands behind the command's name."""
        key = str(args[3] if args[0] in ("EVAL", "EVALSHA") else args[1]).encode()
        try:
            return await self._links.of(key).call(*args)
        except SlotMoved:  # nothing ran
            await self._links.refresh()
            return await self._links.of(key).call(*args)

    def _destination(self, document: bytes) -> Destination:
        spec = read_worker(document, self._names)
        return PushWorker(spec, self.settings.store.queue_prefix, f"toril/{__version__}", time.time)

    def _consumer(self, destination: Destination, slots: int, outbound: Outbound | None = None) -> Consumer:
        if isinstance(destination, Target) and self._targets is not None:
            return self._targets.consumer(destination, slots)
        if outbound is None and self._proxy is not None:
            outbound = self._proxy.outbound(destination)
        leases = self._leases.of(destination.queue, destination.lease_rules)
        if outbound is None:
            executor = Executor(destination, leases, self._outbound, self._settler, random.random, self._attempted)
        else:
            executor = Executor(destination, leases, outbound, self._settler, random.random)
        if isinstance(destination, UpstreamDestination):
            return Consumer(destination, slots, leases, executor, self._around, self._accept_first.may_lease)
        return Consumer(destination, slots, leases, executor, self._around)

    def _attempted(self, lease: Lease, outcome: Outcome, verdict: Verdict) -> None:
        self._attempts.note(lease.queue, attempt_of(lease, outcome, verdict, time.time()))

    def _break_off(self, queue: str, job_id: bytes) -> None:
        if not self.supervisor.cancelled(queue, job_id):
            self._around.note_cancelled(queue, job_id)

    def _wire_proxy(self) -> Proxy:
        shared = Shared(
            self._scripts,
            self._producer,
            self._flows,
            self._egress,
            self._cancelling,
            self._control,
            self._events,
            self._blobs,
            self._near_key,
            self._meter,
            self._accept_first,
        )
        return Proxy(self.settings, shared, self.gateway)

    def _wire_delivery(self) -> Delivery:
        shared = bootstrap_delivery.Shared(
            producer=self._producer,
            finder=self._inspector,
            cancels=self._cancelling,
            spill=self._spill,
            blobs=self._blobs,
            command=self._near_key,
            by=self._instance_id,
        )
        return Delivery(self.settings, shared)

    def _wire_targets(self, delivery: Delivery) -> Targets:
        around = Around(
            ledger=delivery.ledger,
            bodies=delivery.spill,
            command=self._near_key,
            holds=self._control,
            leases=self._leases,
            settler=self._settler,
            surroundings=self._around,
            by=self._instance_id,
        )
        return Targets(self.settings, around)

    def _target_routes(self) -> list[Route]:
        if self._targets is None or self._delivery is None:
            return []
        targets, ledger = self._targets, self._delivery.ledger
        sights = Sights(
            targets.specs, self._reloading, ledger, targets.breakers, self._inspector, self._control, time.time
        )
        return TargetRoutes(sights).routes()

    def _gateway(self) -> Gateway:
        routes = [
            *OpsRoutes(__version__, self.faults).routes(),
            *ReloadRoutes(self._reloading).routes(),
            *MetricsRoutes(self._exposition).routes(),
        ]
        if not self._role.answers:
            return Gateway(routes, self._admission, (), self._meter)
        docs = DocsRoutes(__version__, self.served)
        routes = [
            *self._queue_routes(),
            *([] if self._delivery is None else self._delivery.routes()),
            *self._target_routes(),
            *routes,
            *docs.routes(),
        ]
        return Gateway(routes, self._admission, self._socket_routes(), self._meter)

    def served(self) -> Served:
        """What clients can call, to be described."""
        gateway = Served(self.gateway.table.routes, self.gateway.socket_table.routes)
        return gateway if self._proxy is None else described(gateway, self._proxy.door)

    def _queue_routes(self) -> list[Route]:
        policy, prefix = self.settings.gateway, self.settings.store.queue_prefix
        producer, inspector, control, actions = self._producer, self._inspector, self._control, self._job_actions
        family = Family(actions, prefix)
        expansion = Expansion(actions, inspector, family)
        names, limit = self._names, policy.max_body_bytes
        return [
            *QueueRoutes(producer, inspector, names=names, prefix=prefix, max_body_bytes=limit, now=time.time).routes(),
            *QueueActionRoutes(control, inspector, names=names, forget=producer.forget).routes(),
            *UpkeepRoutes(Upkeep(self._scripts, prefix), control, family, names=names).routes(),
            *JobActionRoutes(actions, family, names=names, max_body_bytes=limit).routes(),
            *FlowRoutes(self._flows, names=names, prefix=prefix, max_body_bytes=limit, now=time.time).routes(),
            *SchedulerRoutes(self._schedulers, names=names, max_body_bytes=limit).routes(),
            *JobRoutes(inspector, inspector, expansion, names=names, prefix=prefix, max_body_bytes=limit).routes(),
            *LeaseRoutes(self._pulls, names=names, prefix=prefix, max_body_bytes=limit).routes(),
            *WorkerRoutes(
                self._registry, self._attempts, names=names, egress=self._egress, max_body_bytes=limit
            ).routes(),
            *EventRoutes(self._events, inspector, actions, names=names).routes(),
        ]

    def _socket_routes(self) -> list[SocketRoute]:
        prefix, names, inspector = self.settings.store.queue_prefix, self._names, self._inspector
        return [
            *QueueSocketRoutes(
                self._producer, inspector, self._control, names=names, prefix=prefix, now=time.time
            ).routes(),
            *EventSocketRoutes(self._events, names=names).routes(),
            *WorkerSocketRoutes(Seats(self._consumer, self.supervisor), inspector, names=names, prefix=prefix).routes(),
        ]


def _open_blobs(payloads: PayloadPolicy) -> BlobStore | None:
    if payloads.url is None:
        return None
    return open_blobs(payloads.url, S3Access(endpoint=payloads.endpoint, region=payloads.region))


def _lock_tokens(policy: GatewayPolicy, instance_id: str) -> LockTokens:
    """Instances with the same API tokens know each other's lock tokens."""
    named = [grant.sha256 for grant in policy.tokens]
    return LockTokens([*(token.encode(errors="replace") for token in policy.auth_tokens), *named], instance_id)


async def recover(settings: Settings) -> Recovered:
    """Put back into the targets' queues what the ledger has and they have not, once; consumes nothing.

    Raises:
        StoreUnavailable: Redis or the ledger was not there in time.
    """
    recovered: list[Recovered] = []
    failure: list[StoreError] = []
    try:
        async with asyncio.TaskGroup() as tasks:
            instance = Instance(settings, tasks)
            try:
                recovered.append(await instance.recover())
            except StoreError as exc:
                failure.append(exc)
            tasks.create_task(_stop())
    except* _StoppedError:
        pass
    if failure:
        raise failure[0]
    return recovered[0]


class _StoppedError(Exception):
    """The instance was asked to end."""


@asynccontextmanager
async def running(
    settings: Settings, config: ConfigFile | None = None, spread: Callable[[], None] | None = None
) -> AsyncIterator[Instance]:
    """A running instance for the length of a block, made like an `Instance`. Draining it is the caller's business."""
    try:
        async with asyncio.TaskGroup() as tasks:
            instance = Instance(settings, tasks, config, spread)
            instance.start()
            yield instance
            tasks.create_task(_stop())
    except* _StoppedError:
        pass


async def _stop() -> None:
    raise _StoppedError
