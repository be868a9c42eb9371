"""Wires the queues door, for `toril.instance.instance`: REST and WebSockets over any BullMQ queue."""

from __future__ import annotations

from msgspec import Struct

from toril.bullmq.maintenance import Maintenance
from toril.bullmq.ports.groups import GroupDrains, GroupStore
from toril.bullmq.rules.queue_name import NameRules
from toril.http_client.egress import Egress
from toril.instance.store import Store
from toril.queues.acknowledging import Acknowledging
from toril.queues.child_jobs import ChildJobs
from toril.queues.connected.routes import ConnectionRoutes
from toril.queues.events import EventRoutes
from toril.queues.finding.bulk import BulkRoutes
from toril.queues.finding.copies import CopyRoutes
from toril.queues.finding.search import SearchRoutes
from toril.queues.flows import FlowRoutes
from toril.queues.groups.routes import GroupRoutes
from toril.queues.job_actions import Expansion, JobActionRoutes
from toril.queues.jobs import JobRoutes
from toril.queues.leases import LeaseRoutes
from toril.queues.maintenance import MaintenanceRoutes
from toril.queues.pulls import Pulls
from toril.queues.queue_actions import QueueActionRoutes
from toril.queues.queues import JobAdder, QueueRoutes
from toril.queues.reconciler import Reconciler
from toril.queues.schedulers import SchedulerRoutes
from toril.queues.sockets.events import EventSocketRoutes
from toril.queues.sockets.queue import QueueSocketRoutes
from toril.queues.sockets.socket_workers import SocketConsumers
from toril.queues.sockets.worker import WorkerSocketRoutes
from toril.queues.workers import WorkerRoutes
from toril.web.routing import Route, SocketRoute


class Queues(Struct, frozen=True):
    """The parts of the queues door."""

    store: Store
    groups: GroupStore
    names: NameRules
    egress: Egress
    pulls: Pulls
    socket_consumers: SocketConsumers
    reconciler: Reconciler
    max_body_bytes: int

    def routes(self) -> list[Route]:
        """Return the REST routes of the door."""
        store, names, limit = self.store, self.names, self.max_body_bytes
        prefix, adder, inspector = store.prefix, self._adder(), store.inspector
        control, actions = store.control, store.job_actions
        children, confirmed = ChildJobs(actions, prefix), self._acknowledging()
        expansion = Expansion(actions, inspector, children)
        return [
            *QueueRoutes(adder, inspector, names=names, prefix=prefix, max_body_bytes=limit).routes(),
            *QueueActionRoutes(
                control, store.queue_names, names=names, forget=store.producer.forget, acknowledging=confirmed
            ).routes(),
            *MaintenanceRoutes(
                Maintenance(store.scripts, prefix), control, children, names=names, acknowledging=confirmed
            ).routes(),
            *JobActionRoutes(actions, children, names=names, max_body_bytes=limit, acknowledging=confirmed).routes(),
            *FlowRoutes(
                store.acknowledged_flows, names=names, prefix=prefix, max_body_bytes=limit, now=store.clock
            ).routes(),
            *SchedulerRoutes(
                store.schedulers, store.queue_names, names=names, max_body_bytes=limit, acknowledging=confirmed
            ).routes(),
            *JobRoutes(inspector, inspector, expansion, names=names, prefix=prefix, max_body_bytes=limit).routes(),
            *SearchRoutes(store.scanner, inspector, names=names, prefix=prefix).routes(),
            *BulkRoutes(actions, inspector, store.scanner, children, names=names, acknowledging=confirmed).routes(),
            *CopyRoutes(adder, inspector, names=names, max_body_bytes=limit).routes(),
            *LeaseRoutes(self.pulls, confirmed, names=names, prefix=prefix, max_body_bytes=limit).routes(),
            *WorkerRoutes(
                store.registry, store.attempts, self.reconciler, names=names, egress=self.egress, max_body_bytes=limit
            ).routes(),
            *ConnectionRoutes(
                store.open_workers, store.leased, store.active_jobs, self.pulls.tokens, names=names, now=store.clock
            ).routes(),
            *EventRoutes(store.events, inspector, actions, names=names).routes(),
        ]

    def group_routes(self, drains: GroupDrains | None) -> list[Route]:
        """Return the routes of groups, which are there without Redis too; `drains` removes what waits in them."""
        clock, confirmed = self.store.clock, self._acknowledging()
        return GroupRoutes(self.groups, drains, names=self.names, now=clock, acknowledging=confirmed).routes()

    def _acknowledging(self) -> Acknowledging:
        return Acknowledging(self.store.confirmations, self.store.prefix)

    def _adder(self) -> JobAdder:
        return JobAdder(self.store.acknowledged_producer, prefix=self.store.prefix, now=self.store.clock)

    def socket_routes(self) -> list[SocketRoute]:
        """Return the WebSocket routes of the door."""
        store, names, prefix = self.store, self.names, self.store.prefix
        return [
            *QueueSocketRoutes(
                self._adder(),
                store.inspector,
                store.control,
                store.audit,
                names=names,
                acknowledging=self._acknowledging(),
            ).routes(),
            *EventSocketRoutes(store.events, names=names).routes(),
            *WorkerSocketRoutes(
                self.socket_consumers, store.inspector, store.open_workers, names=names, prefix=prefix
            ).routes(),
        ]
