"""Wires the queues door, for `toril.bootstrap.instance`: REST and WebSockets over any BullMQ queue."""

from __future__ import annotations

from msgspec import Struct

from toril.bootstrap.store import Store
from toril.bull.upkeep import Upkeep
from toril.core.egress import Egress
from toril.core.ports.work import Pulling, Seats, WorkerChanges
from toril.core.queue_name import NameRules
from toril.gateway.events import EventRoutes
from toril.gateway.family import Family
from toril.gateway.flows import FlowRoutes
from toril.gateway.job_actions import Expansion, JobActionRoutes
from toril.gateway.jobs import JobRoutes
from toril.gateway.leases import LeaseRoutes
from toril.gateway.queue_actions import QueueActionRoutes
from toril.gateway.queues import QueueRoutes
from toril.gateway.routing import Route, SocketRoute
from toril.gateway.schedulers import SchedulerRoutes
from toril.gateway.sockets.events import EventSocketRoutes
from toril.gateway.sockets.queue import QueueSocketRoutes
from toril.gateway.sockets.worker import WorkerSocketRoutes
from toril.gateway.upkeep import UpkeepRoutes
from toril.gateway.workers import WorkerRoutes


class Queues(Struct, frozen=True):
    """What the door is made of."""

    store: Store
    names: NameRules
    egress: Egress
    pulls: Pulling
    seats: Seats
    changes: WorkerChanges
    max_body_bytes: int

    def routes(self) -> list[Route]:
        """Its REST routes."""
        store, names, limit = self.store, self.names, self.max_body_bytes
        prefix, producer, inspector = store.prefix, store.producer, store.inspector
        control, actions = store.control, store.job_actions
        family = Family(actions, prefix)
        expansion = Expansion(actions, inspector, family)
        return [
            *QueueRoutes(
                producer, inspector, names=names, prefix=prefix, max_body_bytes=limit, now=store.clock
            ).routes(),
            *QueueActionRoutes(control, store.queue_names, names=names, forget=producer.forget).routes(),
            *UpkeepRoutes(Upkeep(store.scripts, prefix), control, family, names=names).routes(),
            *JobActionRoutes(actions, family, names=names, max_body_bytes=limit).routes(),
            *FlowRoutes(store.flows, names=names, prefix=prefix, max_body_bytes=limit, now=store.clock).routes(),
            *SchedulerRoutes(store.schedulers, names=names, max_body_bytes=limit).routes(),
            *JobRoutes(inspector, inspector, expansion, names=names, prefix=prefix, max_body_bytes=limit).routes(),
            *LeaseRoutes(self.pulls, names=names, prefix=prefix, max_body_bytes=limit).routes(),
            *WorkerRoutes(
                store.registry, store.attempts, self.changes, names=names, egress=self.egress, max_body_bytes=limit
            ).routes(),
            *EventRoutes(store.events, inspector, actions, names=names).routes(),
        ]

    def socket_routes(self) -> list[SocketRoute]:
        """Its WebSockets."""
        store, names, prefix = self.store, self.names, self.store.prefix
        return [
            *QueueSocketRoutes(
                store.producer, store.inspector, store.control, names=names, prefix=prefix, now=store.clock
            ).routes(),
            *EventSocketRoutes(store.events, names=names).routes(),
            *WorkerSocketRoutes(self.seats, store.inspector, names=names, prefix=prefix).routes(),
        ]
