"""What the delivery door works over: Redis beside its ledger, or the ledger's PostgreSQL alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from toril.bullmq.depths import DepthReader
from toril.bullmq.groups.accepted_jobs import AcceptedJobs
from toril.bullmq.groups.depths import GroupDepths
from toril.bullmq.ports.queues import QueueNames
from toril.core.ports import Now, QueueDepths
from toril.delivery.ports import Breakers, JobCounts, LedgerSightings, Sighting, TargetControl, TargetLeases
from toril.delivery.postgres_queue.queue import PostgresQueue
from toril.delivery.redis_breakers import RedisBreakers
from toril.delivery.redis_sightings import RedisLedgerSightings
from toril.delivery.rules.delivery import queue_of
from toril.delivery.target_queues import TargetQueues
from toril.instance.store import Store
from toril.telemetry.conditions import FleetConditions
from toril.telemetry.redis_conditions import RedisConditions


class DeliveryStore(Struct, frozen=True):
    """The queues of the targets, and what the fleet shares about them."""

    queues: TargetQueues
    leases: TargetLeases
    control: TargetControl
    counts: JobCounts
    depths: QueueDepths
    breakers: Breakers
    sightings: LedgerSightings
    conditions: FleetConditions
    names: QueueNames
    clock: Now


def in_redis(store: Store) -> DeliveryStore:
    """Return the parts that are in Redis."""
    return DeliveryStore(
        TargetQueues(AcceptedJobs(store.producer), store.inspector, store.cancelling, store.producer),
        store.leases,
        store.control,
        store.inspector,
        DepthReader(store.inspector, store.clock, GroupDepths(store.scripts, store.prefix, store.clock)),
        RedisBreakers(store.links, store.prefix),
        RedisLedgerSightings(store.links, store.prefix),
        RedisConditions(store.links, store.prefix),
        store.queue_names,
        store.clock,
    )


def in_postgres(queue: PostgresQueue, targets: Iterable[str], clock: Now) -> DeliveryStore:
    """Return the parts that are in the ledger's database; `targets` are the names of those that run here."""
    jobs = queue.jobs
    return DeliveryStore(
        TargetQueues(jobs, jobs, jobs, queue.groups),
        queue.leases,
        queue.control,
        jobs,
        jobs,
        queue.breakers,
        _OneLedger(),
        queue.conditions,
        _NamesOfTargets(targets),
        clock,
    )


class _NamesOfTargets:
    """`QueueNames` where there are no queues but those of the targets."""

    def __init__(self, targets: Iterable[str]) -> None:
        self._names = sorted(map(queue_of, targets))

    async def page(self, after: str, most: int) -> list[str]:
        """Return the names after this one, in order, at most `most`."""
        return [name for name in self._names if name > after][:most]


class _OneLedger:
    """`LedgerSightings` where the queues are in the ledger itself: no other ledger can share them."""

    async def note(
        self, ledger_id: str, targets: Sequence[str], *, place: str = "", starting: bool = False
    ) -> list[Sighting]:
        """Return nothing."""
        return []
