"""One instance: its parts made and handed to each other, started, renewed and drained."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable

import structlog
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Router

from toril import __version__
from toril.bullmq.rules.queue_name import NameRules
from toril.config.reloading import ConfigFile, Reloading
from toril.config.rollout import Plan
from toril.config.settings import Settings
from toril.core.destination import Destination
from toril.core.lease import Lease
from toril.core.outcome import Outcome
from toril.core.verdict import Verdict
from toril.dashboard.routes import DashboardRoute
from toril.delivery.ledger_recoverer import Recovered
from toril.delivery.rules.destination import Target
from toril.engine.consumer import Consumer
from toril.engine.executor import Executor, ignore
from toril.engine.handovers import Handovers
from toril.engine.ports import Outbound
from toril.engine.settler import Settler
from toril.engine.shared_services import SharedServices
from toril.engine.shared_waits import SharedWaits
from toril.engine.supervisor import Supervisor
from toril.http_client.connecting import Network
from toril.http_client.egress import Egress
from toril.instance.api import agent_routes, api_router, lock_tokens, refused_without_redis, warn_of_no_tokens
from toril.instance.delivery import DeliveryDoor, SharedWithDelivery
from toril.instance.events import OperatorEvents
from toril.instance.ground import Ground
from toril.instance.health import HealthChecks
from toril.instance.proxy import Proxy, SharedWithProxy, load_shedding_of
from toril.instance.queues import Queues
from toril.instance.refusals import Refusals
from toril.instance.stats import FleetStats
from toril.instance.store import Store
from toril.instance.targets import SharedWithTargets, Targets
from toril.instance.traces import Traces
from toril.instance.worker_calls import WorkerCalls
from toril.payloads.obstore_blobs import blobs_of
from toril.payloads.payload_offload import PayloadOffload
from toril.payloads.switched_blobs import SwitchedBlobs
from toril.proxy.description import described
from toril.proxy.routes import OPS
from toril.proxy.rules.destination import UpstreamDestination
from toril.queues.pulls import Pulls
from toril.queues.reconciler import Reconciler
from toril.queues.rules.attempt import attempt_of
from toril.queues.rules.push_worker import PushWorker
from toril.queues.rules.worker import read_worker
from toril.queues.sockets.socket_workers import OneConnection, SocketConsumers
from toril.telemetry.logs import set_level
from toril.telemetry.loop_lag import LoopLag
from toril.telemetry.measures import Measures
from toril.telemetry.prometheus_exposition import PrometheusExposition
from toril.telemetry.prometheus_meter import PrometheusMeter
from toril.web.access_control import AccessControl
from toril.web.auth import Tokens
from toril.web.cors import cors
from toril.web.openapi.docs import DocsRoutes
from toril.web.openapi.document import Served
from toril.web.operations.audit_lines import AuditRoutes
from toril.web.operations.departure import Departure
from toril.web.operations.metrics import MetricsRoutes
from toril.web.operations.reloads import ReloadRoutes
from toril.web.operations.whoami import WhoamiRoutes
from toril.web.request_metrics import RequestMetrics
from toril.web.routing import IndexedRouter, Route
from toril.web.websocket import OpenSockets

log = structlog.get_logger(__name__)

_REACH_S = 10.0
_PATIENCE_LOCKS = 2


class Instance:
    """One process of toril, wired up. `asgi.create_app` makes an application of its `router` and `middleware`.

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
        engine, self._role = settings.engine, settings.role
        self.tasks = tasks
        self._names = NameRules(
            settings.gateway.min_queue_name_length,
            settings.gateway.max_queue_name_length,
            settings.store.queue_prefix if settings.redis.cluster else None,
        )
        # Balancers look for who answers requests; who only works has none to serve meanwhile.
        self.departure = Departure(settings.shutdown.delay_s if settings.role.answers else 0.0, settings.metrics.folder)
        self._meter = PrometheusMeter(settings.metrics.max_queues, time.time, settings.metrics.folder, engine.process)
        self._instance_id = instance_id = str(uuid.uuid4())
        self._store = store = Store(settings, tasks, self._meter, instance_id, self)
        self._measures, self._traces = Measures(self._meter, store.clock), Traces(store.clock)
        self._egress, self._network = Egress(settings.egress), Network()
        self._worker_calls = WorkerCalls(settings, self._egress, self._network)
        self._ground = ground = Ground(settings, store, self._meter, instance_id, self)
        self._handovers = Handovers(
            store.leased, store.settlement_notifications, instance_id=instance_id, now=store.clock
        )
        self._settler = Settler(engine.lock_s * _PATIENCE_LOCKS, self._handovers, self._measures, self._traces.attempts)
        self._shared = SharedServices(
            tasks=tasks,
            waits=SharedWaits(ground.waits),
            presence=ground.presence,
            now=store.clock,
            measures=self._measures,
            tokens=lock_tokens(settings.gateway, instance_id),
            tracing=self._traces.attempts,
            survey=ground.survey,
        )
        self._load_shedding = load_shedding_of(settings)
        self.supervisor = Supervisor(self._consumer, engine, self._shared, works=self._role.name != "gateway")
        rules = self.supervisor.lease_rules
        store.leases.defaults.follow(lambda queue: rules(queue).group)
        self._pulls = Pulls(store.leases, store.leased, self._shared, self._handovers, rules, random.random)
        self._reconciler = Reconciler(store.registry, self.supervisor, self._destination)
        store.following.on_reconnect(self._reconciler.missed)
        self._tokens = Tokens(settings.gateway.auth_tokens, settings.gateway.tokens)
        self._access = AccessControl(self._tokens, ground.rates, settings.gateway.redact)
        self._sockets = OpenSockets()
        self._blobs = SwitchedBlobs(blobs_of(settings.payloads))
        self._spill = PayloadOffload(self._blobs, settings.payloads.threshold_bytes)
        self._exposition = PrometheusExposition(
            self._meter, ground.delivery.depths, ground.ping, self._worked, version=__version__,
            most_queues=settings.metrics.max_queues, traced=self._traces.attempts is not None,
        )  # fmt: skip
        self._delivery = self._wire_delivery() if settings.targets else None
        if self._delivery is not None:
            self._reconciler.on_lost(self._delivery.recoverer.soon)
            ground.on_lost(self._delivery.recoverer.soon)
        self._targets = None if self._delivery is None else self._wire_targets(self._delivery)
        self._events: OperatorEvents | None = None
        if self._delivery is not None and self._targets is not None:
            door, targets = self._delivery, self._targets
            self._events = OperatorEvents(settings, ground.delivery, self._meter, door, targets, self._worked)
            self._events.follow(self._reloading)
        self._stats = FleetStats(settings, ground.statistics, self._meter, self._measures, self._targets)
        self.health = HealthChecks(
            self.departure, self._access, store if ground.has_redis else None, self.supervisor,
            self._reconciler if self._follows_workers else None, self._delivery,
        )  # fmt: skip
        self._proxy = self._wire_proxy() if settings.proxy.upstreams else None
        self.dashboard = DashboardRoute(settings.dashboard.path)
        api = self._api()
        before = None if self._proxy is None else self._proxy.before(api)
        self.router: Router = before if before is not None and self.proxies else api
        self.middleware = [*cors(settings.cors), *self._traces.middleware, Middleware(RequestMetrics, self._meter)]
        self.refusal = Refusals(api, before if self.proxies else None)
        self._drained = False

    def start(self) -> None:
        """Connect and start working. Does not wait for Redis: until it answers, requests get 503."""
        for name, work in (
            *self._ground.tasks(),
            ("supervisor", self.supervisor.run()),
            *(
                [("pulls", self._pulls.run(lambda: self._reconciler.in_step)), ("handovers", self._handovers.run())]
                if self._ground.has_redis
                else []
            ),
            *self._stats.tasks(),
            ("access-control", self._access.run()),
            ("config", self._reloading.run()),
            ("metrics", self._exposition.run()),
            ("loop-lag", LoopLag(self._meter).run()),
        ):
            self.tasks.create_task(work, name=name)
        if self._proxy is not None:
            for name, work in self._proxy.tasks():
                self.tasks.create_task(work, name=name)
            self._proxy.tell_where_answers_go(self.settings.payloads)
            for destination in self._proxy.destinations if self._role.works else ():
                self.supervisor.start_configured(destination)
        if self._follows_workers:
            self.tasks.create_task(self._store.following.run(), name="redis:registry")
            self.tasks.create_task(self._reconciler.run(), name="reconciler")
        if self._delivery is not None and self._targets is not None and self._events is not None:
            for name, work in (*self._delivery.tasks(), *self._targets.tasks(), *self._events.tasks()):
                self.tasks.create_task(work, name=name)
            for target in self._targets.destinations.values():
                if self._role.delivers_to(target.spec.name):
                    self.supervisor.start_configured(target)
        warn_of_no_tokens(self.settings)

    @property
    def _follows_workers(self) -> bool:
        """True if this instance needs the registered workers: to work for them, or to settle jobs by their rules."""
        return (self._role.works or self._role.answers) and self._ground.has_redis

    def _take_over(self, plan: Plan) -> None:
        """Apply changed settings, as far as a reload can.

        Raises:
            TorilError: nothing has changed, since the new store of large bodies cannot be used.
        """
        settings = plan.settings
        # What can fail comes first: a reload applies all of what it says it does, or nothing.
        switches = not {"payloads.url", "payloads.endpoint", "payloads.region"}.isdisjoint(plan.applied)
        blobs = blobs_of(settings.payloads) if switches else None
        self.settings = settings
        if not {"tokens", "auth_tokens"}.isdisjoint(plan.applied):
            # What goes on with tokens that are gone is ended.
            self._tokens.replace(settings.gateway.auth_tokens, settings.gateway.tokens)
            self._access.recheck()
            warn_of_no_tokens(settings)
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
            self._proxy.renew(settings)
        self._worker_calls.renew(settings)
        if self._targets is not None:
            for target in self._targets.renew(settings):
                if self._role.delivers_to(target.spec.name):
                    self.supervisor.start_configured(target)

    async def check(self) -> None:
        """Check that no key in Redis is in toril's way; does nothing while Redis is away.

        Raises:
            StoreError: it does.
        """
        await self._store.check()

    async def recover(self) -> Recovered:
        """Recover deliveries once, with nothing but the connections of this instance running.

        Raises:
            StoreUnavailable: Redis or the ledger was not there in time.
        """
        if self._delivery is None:
            return Recovered(Counter(), Counter(), Counter())
        self.tasks.create_task(self._delivery.ledger.run(), name="ledger")
        await self._ground.reached(self.tasks)
        await self._delivery.reached(_REACH_S)
        await self._delivery.fleet.look()  # says so if another ledger is at work on these queues
        return await self._delivery.recoverer.recover()

    async def drain(self) -> None:
        """Take no new work, finish what is in flight within the grace period, give the rest back. Idempotent."""
        if self._drained:
            return
        self._drained = self._access.draining = True
        self._sockets.drain()
        if self._proxy is not None:
            self._proxy.router.endpoint.draining = True
        self._store.events.close()
        if self._delivery is not None:
            self._delivery.close()
        self._pulls.close()
        async with asyncio.TaskGroup() as tasks:
            for part in (self.supervisor, self._proxy):
                if part is not None:
                    tasks.create_task(part.drain())
        await self._stats.flush()
        await self._traces.close()

    @property
    def proxies(self) -> bool:
        """True if this instance answers requests to upstreams."""
        return self._proxy is not None and self._role.answers

    def tunnels(self, target: bytes) -> bool:
        """Return True if a WebSocket to this raw target is only passed on to an upstream."""
        return self._proxy is not None and self.proxies and self._proxy.router.tunnels(target)

    def _destination(self, document: bytes) -> Destination:
        spec = read_worker(document, self._names)
        return PushWorker(spec, self.settings.store.queue_prefix, f"toril/{__version__}", self._store.clock)

    def _consumer(self, destination: Destination, slots: int, outbound: Outbound | None = None) -> Consumer:
        if isinstance(destination, Target) and self._targets is not None:
            return self._targets.consumer(destination, slots)
        if outbound is None and self._proxy is not None:
            outbound = self._proxy.outbound(destination)
        leases = self._store.leases.of(destination.queue, destination.lease_rules)
        executor = Executor(
            destination, leases, outbound or self._worker_calls.client, self._settler, random.random,
            self._attempted if outbound is None else ignore,
        )  # fmt: skip
        executor.confirming = outbound.confirming if isinstance(outbound, OneConnection) else self._store.unattended
        if isinstance(destination, UpstreamDestination):
            return Consumer(destination, slots, leases, executor, self._shared, self._load_shedding.may_begin)
        return Consumer(destination, slots, leases, executor, self._shared)

    def _attempted(self, lease: Lease, outcome: Outcome, verdict: Verdict) -> None:
        self._store.attempts.note(lease.queue, attempt_of(lease, outcome, verdict, self._store.clock()))
        if self._events is not None:
            self._events.attempted(lease.queue, outcome, verdict)

    def _worked(self) -> set[str]:
        return {consumer.queue for consumer in self.supervisor.consumers()}

    def cancelled(self, queue: str, job_id: bytes) -> None:
        """As `Hearing.cancelled`."""
        if not self.supervisor.cancel(queue, job_id):
            self._shared.cancelled.note(queue, job_id)

    def limit_lifted(self, queue: str) -> None:
        """As `Hearing.limit_lifted`."""
        self.supervisor.limit_lifted(queue)
        self._pulls.limit_lifted(queue)

    def _wire_proxy(self) -> Proxy:
        store, shed = self._store, self._load_shedding
        shared = SharedWithProxy(store, self._egress, self._blobs, self._meter, shed, self._network)
        return Proxy(self.settings, shared)

    def _wire_delivery(self) -> DeliveryDoor:
        queues, by = self._ground.delivery, self._instance_id
        shared = SharedWithDelivery(self._store, queues, self._spill, self._blobs, by, self._meter)
        return DeliveryDoor(self.settings, shared)

    def _wire_targets(self, delivery: DeliveryDoor) -> Targets:
        shared = SharedWithTargets(
            self._ground.delivery, delivery.ledger, delivery.fleet, delivery.offload, self._settler, self._shared,
            self._network, self._instance_id, self.supervisor,
        )  # fmt: skip
        return Targets(self.settings, shared)

    def _api(self) -> IndexedRouter:
        """Return the routes of toril's own API; without `apiPath`, those that an instance with upstreams keeps."""
        routes: list[BaseRoute] = [
            *self.health.routes(self.settings, __version__),
            *ReloadRoutes(self._reloading).routes(),
            *MetricsRoutes(self._exposition).routes(),
        ]
        if self._role.answers:
            sockets = SocketConsumers(self._consumer, self.supervisor, self._store.settlements)
            queues = Queues(
                self._store, self._ground.groups, self._names, self._egress, self._pulls, sockets, self._reconciler,
                self.settings.gateway.max_body_bytes,
            )  # fmt: skip
            has_redis = self._ground.has_redis
            over_redis = list if has_redis else refused_without_redis
            routes = [
                *over_redis(queues.routes()),
                *queues.group_routes(None if self._delivery is None else self._delivery.drains(queues.groups)),
                *([] if self._delivery is None else self._delivery.routes()),
                *([] if self._targets is None else self._targets.routes(self._reloading, self._stats.recent)),
                *self._stats.routes(lambda: self.health, self._names),
                *([] if self._proxy is None else self._proxy.routes()),
                *routes,
                *DocsRoutes(__version__, self.served).routes(),
                *AuditRoutes(self._ground.audit_trail).routes(),
                *WhoamiRoutes(__version__, self._doors, self._tokens.expires_at_s).routes(),
                *agent_routes(self.settings, __version__),
                *([self.dashboard] if self.settings.dashboard.enabled else []),
                *(queues.socket_routes() if has_redis else []),
            ]
        if self._role.answers and self.settings.proxy.upstreams and self.settings.proxy.api_path is None:
            routes = [route for route in routes if isinstance(route, Route) and route.path in OPS]
        self._api_router = api_router(routes, self._access, self._sockets, self._ground.audit)
        return self._api_router

    def _doors(self) -> list[str]:
        """Return the names of the doors that this instance has."""
        doors = {"queues": self._ground.has_redis, "proxy": self._proxy, "delivery": self._delivery}
        return [name for name, door in doors.items() if door]

    def served(self) -> Served:
        """Return what clients can call, for the OpenAPI document."""
        api = Served(self._api_router.plain, self._api_router.sockets)
        return api if self._proxy is None else described(api, self._proxy.router)
