"""One instance: its parts made and handed to each other, started, renewed and drained."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from starlette.types import ASGIApp

from toril import __version__
from toril.adapters.busy_time import busy_s
from toril.adapters.connecting import Network
from toril.adapters.httptools_outbound import HttptoolsOutbound
from toril.adapters.obstore_blobs import S3Access, open_blobs
from toril.adapters.prometheus_exposition import PrometheusExposition
from toril.adapters.prometheus_meter import PrometheusMeter
from toril.adapters.redis_rates import RedisRates
from toril.bootstrap.delivery import Delivery, SharedWithDelivery
from toril.bootstrap.proxy import Proxy, SharedWithProxy
from toril.bootstrap.queues import Queues
from toril.bootstrap.store import Store
from toril.bootstrap.targets import SharedWithTargets, Targets
from toril.bull.depths import Depths
from toril.config.logs import set_level
from toril.config.reloading import ConfigFile, Reloading
from toril.config.rollout import Plan
from toril.core.attempt import attempt_of
from toril.core.destinations.base import Destination
from toril.core.destinations.push_worker import PushWorker
from toril.core.destinations.target import Target
from toril.core.destinations.upstream import UpstreamDestination
from toril.core.egress import Egress
from toril.core.errors import CannotServe, StoreError, StoreRefused
from toril.core.lease import Lease
from toril.core.lock_tokens import LockTokens
from toril.core.outcome import Outcome
from toril.core.policy import GatewayPolicy, Settings
from toril.core.ports.bodies import BlobStore
from toril.core.ports.calls import Outbound
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
from toril.gateway.departure import Departure
from toril.gateway.docs import DocsRoutes
from toril.gateway.metrics import MetricsRoutes
from toril.gateway.openapi import Served
from toril.gateway.ops import OpsRoutes
from toril.gateway.proxy_description import described
from toril.gateway.refusals import Refusals
from toril.gateway.reloads import ReloadRoutes
from toril.gateway.routing import Route
from toril.gateway.targets import Sights, TargetRoutes
from toril.intake.spill import Spill
from toril.intake.switched_blobs import SwitchedBlobs

log = structlog.get_logger(__name__)

_READY_S = 1.0
_REACH_S = 10.0
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
        engine = settings.engine
        self._tasks = tasks
        self._names = NameRules(
            settings.gateway.min_queue_name_length,
            settings.gateway.max_queue_name_length,
            settings.store.queue_prefix if settings.redis.cluster else None,
        )
        # Balancers look for who answers requests; who only works has none to serve meanwhile.
        self.departure = Departure(settings.shutdown.delay_s if settings.role.answers else 0.0, settings.metrics.folder)
        self._meter = PrometheusMeter(settings.metrics.max_queues, time.time, settings.metrics.folder, engine.process)
        self._instance_id = instance_id = str(uuid.uuid4())
        self._store = store = Store(settings, tasks, self._meter, instance_id, self._break_off)
        self._measures = Measures(self._meter, store.clock)
        self._egress = Egress(settings.egress)
        self._network = Network()
        self._outbound = HttptoolsOutbound(
            engine.connect_timeout_s,
            engine.max_response_bytes,
            self._egress,
            self._network,
            max_head_bytes=engine.max_response_head_bytes,
        )
        self._handovers = Handovers(store.leased, store.settled_news, instance_id=instance_id, now=store.clock)
        self._settler = Settler(engine.lock_s * _SETTLE_PATIENCE_LOCKS, self._handovers, self._measures)
        self._around = Surroundings(
            tasks=tasks,
            waits=SharedWaits(store.markers),
            presence=store.presence,
            now=store.clock,
            measures=self._measures,
            tokens=_lock_tokens(settings.gateway, instance_id),
        )
        self._accept_first = AcceptFirst(busy_s, time.monotonic)
        self._role = settings.role
        self.supervisor = Supervisor(
            self._consumer,
            engine,
            store.presence,
            store.markers.forget,
            self._measures,
            works=self._role.name != "gateway",
        )
        self._pulls = Pulls(
            store.leases, store.leased, self._around, self._handovers, self.supervisor.rules, random.random
        )
        self._reconciler = Reconciler(store.registry, self.supervisor, self._destination)
        store.following.on_reconnect(self._reconciler.missed)
        self._tokens = Tokens(settings.gateway.auth_tokens, settings.gateway.tokens)
        self._admission = Admission(self._tokens, RedisRates(store.near_key))
        self._blobs = SwitchedBlobs(_open_blobs(settings.payloads))
        self._spill = Spill(self._blobs, settings.payloads.threshold_bytes)
        self._exposition = PrometheusExposition(
            self._meter,
            Depths(store.inspector, store.clock),
            store.links.check,
            lambda: {consumer.queue for consumer in self.supervisor.consumers()},
            version=__version__,
            most_queues=settings.metrics.max_queues,
        )
        self._delivery = self._wire_delivery() if settings.targets else None
        if self._delivery is not None:
            self._reconciler.on_lost(self._delivery.recoverer.soon)
        self._targets = None if self._delivery is None else self._wire_targets(self._delivery)
        self.gateway = self._gateway()
        self._proxy = self._wire_proxy() if settings.proxy.upstreams else None
        door = self._proxy.door if self._proxy is not None and self.proxies else None
        self.app: ASGIApp = door or self.gateway
        self.refusal = Refusals(self.gateway.table, door)

    def start(self) -> None:
        """Connect and begin to work. Does not wait for Redis: until it is there, requests get 503."""
        for name, work in (
            *self._store.tasks(),
            ("supervisor", self.supervisor.run()),
            ("pulls", self._pulls.run()),
            ("handovers", self._handovers.run()),
            ("admission", self._admission.run()),
            ("config", self._reloading.run()),
            ("metrics", self._exposition.run()),
            ("loop-lag", LoopLag(self._meter).run()),
        ):
            self._tasks.create_task(work, name=name)
        if self._proxy is not None or self._delivery is not None:
            self._tasks.create_task(self._store.cancelling.run(), name="cancelling")
        if self._proxy is not None:
            for name, work in self._proxy.tasks():
                self._tasks.create_task(work, name=name)
            self._proxy.tell_where_answers_go(self.settings.payloads)
            for destination in self._proxy.destinations if self._role.works else ():
                self.supervisor.keep(destination)
        if self._follows_workers:
            self._tasks.create_task(self._store.following.run(), name="redis:registry")
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
        """From now on run with these settings, in all that a reload can change.

        Raises:
            TorilError: nothing has changed, since the new store of large bodies cannot be used.
        """
        settings = plan.settings
        # What can fail comes first: a reload applies all of what it says it does, or nothing.
        switches = not {"payloads.url", "payloads.endpoint", "payloads.region"}.isdisjoint(plan.applied)
        blobs = _open_blobs(settings.payloads) if switches else None
        self.settings = settings
        if not {"tokens", "auth_tokens"}.isdisjoint(plan.applied):
            # What goes on with tokens that are gone is ended.
            self._tokens.replace(settings.gateway.auth_tokens, settings.gateway.tokens)
            self._admission.recheck()
            self._warn_of_no_tokens(settings.gateway)
        if self._delivery is not None:
            self._delivery.renew(settings)
        if "log.level" in plan.applied:
            set_level(settings.log.level)
        if switches:
            self._blobs.switch(blobs)
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
        await self._store.check()

    async def recover(self) -> Recovered:
        """Recover deliveries once, with nothing of this instance running but its connections.

        Raises:
            StoreUnavailable: Redis or the ledger was not there in time.
        """
        if self._delivery is None:
            return Recovered(Counter(), Counter(), Counter())
        self._tasks.create_task(self._store.links.run(), name="redis")
        self._tasks.create_task(self._delivery.ledger.run(), name="ledger")
        await self._store.links.check()
        await self._delivery.reached(_REACH_S)
        await self._delivery.fleet.look()  # says so if another ledger is at work on these queues
        return await self._delivery.recoverer.recover()

    async def drain(self) -> None:
        """Take no new work, finish what is in flight within the grace period, give the rest back."""
        self.gateway.drain()
        if self._proxy is not None:
            self._proxy.door.draining = True
        self._store.events.close()
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
        if self.departure.begun or self.gateway.draining:
            return ["shutting down"]
        try:
            async with asyncio.timeout(_READY_S):
                await self._store.links.check_writable()
                faults = await self._reconciler.faults() if self._follows_workers else []
        except (CannotServe, StoreRefused) as exc:
            return [f"Redis takes no writes: {exc.message}"]
        except (StoreError, TimeoutError):
            return ["Redis does not answer"]
        if faults:
            return faults
        if self._delivery is not None and (faults := await self._delivery.faults()):
            return faults
        sluggish = self.supervisor.sluggish()
        return [f"{len(sluggish)} queue(s) are not being worked on"] if sluggish else []

    def warnings(self) -> list[str]:
        """What an operator has to look at, though work moves."""
        warnings = [] if self._delivery is None else self._delivery.warnings()
        return [*warnings, *(self._reconciler.warnings() if self._follows_workers else [])]

    def _destination(self, document: bytes) -> Destination:
        spec = read_worker(document, self._names)
        return PushWorker(spec, self.settings.store.queue_prefix, f"toril/{__version__}", self._store.clock)

    def _consumer(self, destination: Destination, slots: int, outbound: Outbound | None = None) -> Consumer:
        if isinstance(destination, Target) and self._targets is not None:
            return self._targets.consumer(destination, slots)
        if outbound is None and self._proxy is not None:
            outbound = self._proxy.outbound(destination)
        leases = self._store.leases.of(destination.queue, destination.lease_rules)
        if outbound is None:
            executor = Executor(destination, leases, self._outbound, self._settler, random.random, self._attempted)
        else:
            executor = Executor(destination, leases, outbound, self._settler, random.random)
        if isinstance(destination, UpstreamDestination):
            return Consumer(destination, slots, leases, executor, self._around, self._accept_first.may_lease)
        return Consumer(destination, slots, leases, executor, self._around)

    def _attempted(self, lease: Lease, outcome: Outcome, verdict: Verdict) -> None:
        self._store.attempts.note(lease.queue, attempt_of(lease, outcome, verdict, self._store.clock()))

    def _break_off(self, queue: str, job_id: bytes) -> None:
        if not self.supervisor.cancelled(queue, job_id):
            self._around.note_cancelled(queue, job_id)

    def _wire_proxy(self) -> Proxy:
        shared = SharedWithProxy(self._store, self._egress, self._blobs, self._meter, self._accept_first, self._network)
        return Proxy(self.settings, shared, self.gateway)

    def _wire_delivery(self) -> Delivery:
        shared = SharedWithDelivery(self._store, self._spill, self._blobs, self._instance_id)
        return Delivery(self.settings, shared)

    def _wire_targets(self, delivery: Delivery) -> Targets:
        shared = SharedWithTargets(
            self._store,
            delivery.ledger,
            delivery.fleet,
            delivery.spill,
            self._settler,
            self._around,
            self._network,
            self._instance_id,
        )
        return Targets(self.settings, shared)

    def _target_routes(self) -> list[Route]:
        if self._targets is None or self._delivery is None:
            return []
        targets, ledger = self._targets, self._delivery.ledger
        sights = Sights(
            targets.specs,
            self._reloading,
            ledger,
            targets.breakers,
            self._store.inspector,
            self._store.control,
            self._store.clock,
        )
        return TargetRoutes(sights).routes()

    def _gateway(self) -> Gateway:
        routes = [
            *OpsRoutes(__version__, self.faults, self.warnings, self.departure.told).routes(),
            *ReloadRoutes(self._reloading).routes(),
            *MetricsRoutes(self._exposition).routes(),
        ]
        if not self._role.answers:
            return Gateway(routes, self._admission, (), self._meter)
        queues = Queues(
            self._store,
            self._names,
            self._egress,
            self._pulls,
            Seats(self._consumer, self.supervisor),
            self._reconciler,
            self.settings.gateway.max_body_bytes,
        )
        docs = DocsRoutes(__version__, self.served)
        routes = [
            *queues.routes(),
            *([] if self._delivery is None else self._delivery.routes()),
            *self._target_routes(),
            *routes,
            *docs.routes(),
        ]
        return Gateway(routes, self._admission, queues.socket_routes(), self._meter)

    def served(self) -> Served:
        """What clients can call, to be described."""
        gateway = Served(self.gateway.table.routes, self.gateway.socket_table.routes)
        return gateway if self._proxy is None else described(gateway, self._proxy.door)


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
