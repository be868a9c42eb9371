"""The queues of all targets in PostgreSQL, with everything that the delivery door and the engine use of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from toril.bullmq.announcements import Hearing
from toril.bullmq.groups.defaults import GroupDefaults
from toril.core.ports import Meter, Now
from toril.delivery.postgres_queue.audit_lines import PostgresLines
from toril.delivery.postgres_queue.breakers import PostgresBreakers
from toril.delivery.postgres_queue.conditions import PostgresConditions
from toril.delivery.postgres_queue.control import PostgresControl
from toril.delivery.postgres_queue.database import QueueDatabase
from toril.delivery.postgres_queue.groups import PostgresGroups
from toril.delivery.postgres_queue.jobs import PostgresJobs
from toril.delivery.postgres_queue.leases import PostgresLeaseStores
from toril.delivery.postgres_queue.moves import HeldCounts, JobMoves
from toril.delivery.postgres_queue.statistics import PostgresFailures, PostgresPoints
from toril.delivery.postgres_queue.waits import PostgresWaits

_NOW = "SELECT floor(t)::bigint, ((t - floor(t)) * 1e6)::bigint FROM extract(epoch FROM clock_timestamp()) AS n (t)"


class QueueContext(Struct, frozen=True):
    """What the queues use of their instance.

    `instance_id` is what others tell it by. `hearing` is told of cancelled jobs and of holds that were ended, `meter`
    counts jobs that are added, and `held` how often groups were held back. `defaults` has the limits of groups that
    have none. `lost` is called when the database was away, which may have lost the last jobs.
    """

    instance_id: str
    hearing: Hearing
    meter: Meter
    defaults: GroupDefaults
    held: HeldCounts
    lost: Callable[[], None]


class PostgresQueue:
    """The queues of one process.

    Args:
        url: the ledger's database.
        context: what they use of their instance.
        lock_s: how long a lease lives.
    """

    def __init__(self, url: str, context: QueueContext, *, lock_s: float) -> None:
        self._database = database = QueueDatabase(url, context.lost)
        self.open = asyncio.Event()
        """Set once the database was reached."""
        self.waits = PostgresWaits(database, context.instance_id, context.hearing)
        self.jobs = PostgresJobs(database, self.waits, context.meter)
        self._moves = JobMoves(database, self.waits, context.held)
        self.leases = PostgresLeaseStores(database, self._moves, lock_s)
        self.control = PostgresControl(database, self.waits)
        self.groups = PostgresGroups(database, self.waits, context.defaults)
        self.points = PostgresPoints(database)
        self.audit_lines = PostgresLines(database)
        self.breakers = PostgresBreakers(database)
        self.conditions = PostgresConditions(database)

    async def run(self) -> None:
        """Connect and serve, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            # These refuse what is asked of them before the database is there.
            for part in (self.jobs, self._moves, self.breakers):
                tasks.create_task(part.run(), name=f"queues:{type(part).__name__}")
            try:
                await self._database.open()
                self.open.set()
                await self.waits.run()
            finally:
                self._database.close()

    def failures(self, now: Now) -> PostgresFailures:
        """Return why attempts fail in the fleet, by this clock."""
        return PostgresFailures(self._database, now)

    async def time(self) -> Any:
        """Return the time of PostgreSQL as Redis tells its own: seconds and microseconds."""
        (row,) = await self._database.fetch(_NOW)
        return tuple(row)
