"""Renews the locks of all jobs in flight, in one call per queue.

If a job is not ours now, another worker may have it: its attempt is broken off and nothing is written. The same goes
for a lock that could not be renewed for as long as it lives, unless the attempt has ended: then Redis decides whether
its settlement comes in time. A consumer that stops does not wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from toril.core.errors import StoreError
from toril.core.lease import Lease
from toril.engine.consumer import Consumer

log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Renews the leases of all consumers, the retiring ones included.

    Args:
        consumers: returns those whose leases to renew.
        lock_s: how long a lock lives; it is renewed when half of that is over.
    """

    def __init__(self, consumers: Callable[[], Iterable[Consumer]], lock_s: float) -> None:
        self._consumers = consumers
        self._lock_s = lock_s

    async def run(self) -> None:
        """Renew until cancelled. A store that is slow to answer for some leases does not hold up the others."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await asyncio.sleep(self._lock_s / 6)
                tasks.create_task(self.renew())

    async def renew(self) -> None:
        """Renew the leases that are due."""
        now = asyncio.get_running_loop().time()
        # The answer names jobs. One that was lost and taken again has two leases here, which are asked about apart.
        due: dict[tuple[str, int], dict[bytes, tuple[Consumer, Lease]]] = {}
        # A lease waits for a slot only while all are taken, so a consumer without a taken slot has none.
        for consumer in [consumer for consumer in self._consumers() if consumer.slots]:
            for lease in consumer.in_flight:
                if now - lease.renewed_at > self._lock_s / 3 and not (lease.handed_over or lease.lost):
                    call = 0
                    while lease.job_id in due.setdefault((consumer.queue, call), {}):
                        call += 1
                    due[consumer.queue, call][lease.job_id] = consumer, lease
        if not due:
            return
        async with asyncio.TaskGroup() as tasks:
            for (queue, _), held in due.items():
                tasks.create_task(self._renew(queue, list(held.values())))

    async def _renew(self, queue: str, held: list[tuple[Consumer, Lease]]) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        leases = [lease for _, lease in held]
        try:
            lost = await held[0][0].store.extend(leases)
        except StoreError as exc:
            log.warning("lease.renew_failed", queue=queue, jobs=len(leases), error=exc.message)
            since = loop.time() - self._lock_s
            lost = {
                lease.job_id
                for consumer, lease in held
                if lease.renewed_at < since and (consumer.stopped or not lease.settling)
            }
        else:
            for lease in leases:
                lease.renewed_at = max(lease.renewed_at, began)
        for consumer, lease in held:
            if lease.job_id in lost:
                consumer.lose(lease)
