"""Wires the targets of the delivery door: a queue, a consumer, connections, a journal and a breaker for each.

`toril.instance.instance` hands in what is shared, and starts the consumers.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterator
from typing import Any

import structlog
from msgspec import Struct

from toril.config.settings import Settings
from toril.core.errors import StoreError
from toril.core.rollout import Reloads
from toril.delivery.breaker_gate import REPORT_S, BreakerGate
from toril.delivery.delivery_executor import AttemptServices, DeliveryExecutor
from toril.delivery.events.target_watch import TargetWatch
from toril.delivery.journal import Journal
from toril.delivery.ledger_fleet import LedgerFleet
from toril.delivery.listening.listened_target import ListenedTarget
from toril.delivery.listening.routes import TargetListenerRoutes
from toril.delivery.ports import AnyLedger
from toril.delivery.rules.destination import Target
from toril.delivery.rules.target import TargetSpec
from toril.delivery.target_routes import AttemptRates, TargetRoutes, TargetStatusSources
from toril.engine.consumer import Consumer
from toril.engine.ports import Outbound
from toril.engine.settler import Settler
from toril.engine.shared_services import SharedServices
from toril.engine.supervisor import Supervisor
from toril.http_client.client import HttpClient, always
from toril.http_client.configured_routes import route_of
from toril.http_client.connecting import Network
from toril.instance.delivery_store import DeliveryStore
from toril.payloads.payload_offload import PayloadOffload
from toril.web.routing import Route, SocketRoute

log = structlog.get_logger(__name__)


class SharedWithTargets(Struct, frozen=True):
    """What targets share with the other doors; `by` is how histories call this instance."""

    store: DeliveryStore
    ledger: AnyLedger
    fleet: LedgerFleet
    bodies: PayloadOffload
    settler: Settler
    services: SharedServices
    network: Network
    by: str
    supervisor: Supervisor


class Targets:
    """The targets of one process."""

    def __init__(self, settings: Settings, shared: SharedWithTargets) -> None:
        self.breakers = shared.store.breakers
        self.destinations = {
            spec.name: Target(spec, shared.store.clock, identifies_events=spec.name == settings.events.target)
            for spec in settings.targets
        }
        self.watch: TargetWatch | None = None
        self._routes = {
            spec.name: route_of(spec.outbound, shared.network, spec.timeout.connect_s) for spec in settings.targets
        }
        self._shared = shared
        self._lease_s = settings.delivery.lease_s
        self._max_response_bytes = settings.engine.max_response_bytes
        self._max_head_bytes = settings.engine.max_response_head_bytes
        self._gates: dict[str, BreakerGate] = {}
        self._listeners: set[ListenedTarget] = set()

    def tasks(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Return the tasks that run as long as the instance does, by name."""
        yield "targets:breakers", self._report()

    async def _report(self) -> None:
        """Report successes to the breakers of targets that have nothing else to ask them."""
        while True:
            await asyncio.sleep(REPORT_S)
            for name, gate in self._gates.items():
                try:
                    await gate.report()
                except StoreError as exc:
                    log.debug("breaker.not_told", target=name, error=exc.message)

    def specs(self) -> list[TargetSpec]:
        """Return all targets as they run now, in the order of the file."""
        return [target.spec for target in self.destinations.values()]

    def routes(self, reloads: Reloads, rates: AttemptRates) -> list[Route | SocketRoute]:
        """Return the routes that show, pause and resume them, and that of listeners.

        Args:
            reloads: tells what waits for a restart.
            rates: tells how their attempts have ended.
        """
        store = self._shared.store
        sources = TargetStatusSources(
            self.specs, reloads, self._shared.ledger, rates, self.breakers, store.counts, store.control, store.clock
        )
        listeners = TargetListenerRoutes(
            self._listened, self._listener, self._no_longer_listened, self._shared.supervisor, self._max_response_bytes
        )
        return [*TargetRoutes(sources).routes(), *listeners.routes()]

    def _listened(self, name: str, slots: int) -> ListenedTarget | None:
        target = self.destinations.get(name)
        if target is None:
            return None
        listened = ListenedTarget(target.spec, self._shared.store.clock, slots)
        self._listeners.add(listened)
        return listened

    def _no_longer_listened(self, target: ListenedTarget) -> None:
        self._listeners.discard(target)
        self._gates.pop(_gate_of(target), None)

    def _listener(self, target: ListenedTarget, outbound: Outbound) -> Consumer:
        return self.consumer(target, target.concurrency, outbound)

    def renew(self, settings: Settings) -> list[Target]:
        """Use these policies and secrets from the next attempt or verdict on.

        Returns the targets whose consumers must be started anew for it: leases know a rate limit from their beginning.
        """
        limited = []
        for spec in settings.targets:
            target = self.destinations.get(spec.name)
            if target is None:
                continue
            if (target.spec.rate_limit, target.spec.group) != (spec.rate_limit, spec.group):
                limited.append(target)
            target.renew(spec)
            for listened in self._listeners:
                if listened.queue == target.queue:
                    listened.renew(spec)
            self._routes[spec.name].renew(spec.outbound)
        return limited

    def client(self, target: Target) -> HttpClient:
        """Return what makes the requests to a target."""
        # The operator's own URLs: no egress rules. One that answers at length is not punished for it.
        return HttpClient(
            target.spec.timeout.connect_s,
            self._max_response_bytes,
            network=self._shared.network,
            truncate=True,
            max_head_bytes=self._max_head_bytes,
        ).on(always(self._routes[target.spec.name]))

    def consumer(self, target: Target, slots: int, outbound: Outbound | None = None) -> Consumer:
        """Return a consumer that delivers to a target, with this many slots.

        Args:
            target: where to.
            slots: how many attempts may be under way at once.
            outbound: makes the requests; by default the target is called at its URL.
        """
        shared, name = self._shared, target.spec.name
        leases = shared.store.leases.of(target.queue, target.lease_rules)
        outbound = self.client(target) if outbound is None else outbound
        journal = Journal(
            shared.ledger, shared.bodies, target, by=shared.by, lease_s=self._lease_s, now=shared.store.clock
        )
        gate = BreakerGate(
            target, self.breakers, shared.store.control, shared.settler, shared.store.clock, self._lease_s
        )
        self._gates[_gate_of(target)] = gate
        services = AttemptServices(journal, gate, shared.fleet, random.random)
        if self.watch is not None:
            gate.changed = self.watch.breaker_changed
            services = AttemptServices(journal, gate, shared.fleet, random.random, self.watch.attempted)
        executor = DeliveryExecutor(target, leases, outbound, shared.settler, services)
        return Consumer(target, slots, leases, executor, shared.services, lambda: shared.fleet.may_take(name))


def _gate_of(target: Target) -> str:
    """Return the key of a target's gate: each listener has a gate beside that of the target's own consumer."""
    return f"{target.spec.name}:{id(target)}" if isinstance(target, ListenedTarget) else target.spec.name
