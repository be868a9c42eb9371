"""Removes deliveries whose retention is over, with their bodies in the blob store.

The job in the queue goes first, then the row, then the bodies. So no job is left without a row, and no row refers to a
missing body. A crash in between leaves orphans, bodies that no row refers to; they are removed when they are a day
old. Several instances may sweep at the same time: removing what is already gone is not an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog
from msgspec import Struct

from toril.core.blob import owner
from toril.core.errors import StoreError
from toril.core.metrics import JANITOR_FAILURES, JANITOR_REMOVED, UNMETERED
from toril.core.ports import Meter, Now
from toril.delivery.ports import AnyLedger
from toril.delivery.rules.delivery import folder_of, queue_of
from toril.delivery.rules.lifecycle import Status
from toril.delivery.rules.target import Retention
from toril.delivery.target_queues import TargetQueues
from toril.payloads.ports import BlobStore

log = structlog.get_logger(__name__)

_PAGE = 200
_ORPHANS_EVERY_S = 3600.0
_AGAIN_S = 2.0
_WORTH_A_LINE = 2
_FAILURES_A_LINE = 30


class JanitorTimes(Struct, frozen=True):
    """How often to sweep, and how old a body must be before it counts as an orphan.

    A body is put before its row is committed, so the row of a young one may be about to follow.
    """

    every_s: float
    orphan_s: float = 24 * 3600.0


class DeliveryJanitor:
    """Removes old deliveries, and bodies that no delivery refers to.

    Args:
        ledger: what is swept.
        queues: what is left there of a delivery goes before its row does, so that no job is without a row.
        blobs: the store of large bodies; the folder of this ledger is searched for orphans.
        retention: of each configured target. Deliveries of other targets are kept for the default `Retention`.
        times: how often to sweep, and when a body is an orphan.
        now: the wall clock.

    `meter` counts what was removed, once it is set.
    """

    def __init__(
        self,
        ledger: AnyLedger,
        queues: TargetQueues,
        blobs: BlobStore,
        retention: Callable[[], Mapping[str, Retention]],
        times: JanitorTimes,
        now: Now,
    ) -> None:
        self._ledger = ledger
        self._queues = queues
        self._blobs = blobs
        self._retention = retention
        self._times = times
        self._now = now
        self.meter: Meter = UNMETERED

    async def run(self) -> None:
        """Sweep until cancelled, every `JanitorTimes.every_s`."""
        loop = asyncio.get_running_loop()
        orphans_at: float | None = None
        failures = 0
        while True:
            pause_s = self._times.every_s
            try:
                removed = await self.sweep()
                if orphans_at is None or loop.time() - orphans_at >= _ORPHANS_EVERY_S:
                    orphans_at = loop.time()
                    removed_bodies = await self.sweep_orphans()
                    self.meter.count(JANITOR_REMOVED, ("bodies",), removed_bodies)
                    if removed_bodies:
                        log.info("janitor.orphans_removed", bodies=removed_bodies)
            except StoreError as exc:
                pause_s = min(_AGAIN_S, self._times.every_s)
                failures += 1
                self.meter.count(JANITOR_FAILURES)
                if (
                    failures % _FAILURES_A_LINE == _WORTH_A_LINE
                ):  # the first failure may just be a ledger that is not connected yet
                    log.warning("janitor.failed", error=exc.message)
            else:
                failures = 0
                self.meter.count(JANITOR_REMOVED, ("deliveries",), removed)
                if removed:
                    log.info("janitor.removed", deliveries=removed)
            await asyncio.sleep(pause_s)

    async def sweep(self) -> int:
        """Remove the deliveries whose retention is over; return how many there were.

        Raises:
            StoreUnavailable: the ledger or the blob store did not answer; the next sweep continues.
        """
        removed = 0
        retention = self._retention()
        for target in sorted({*retention, *await self._ledger.targets()}):
            kept = retention.get(target, _DEFAULT)
            for status, kept_s in (
                (Status.DELIVERED, kept.delivered_s),
                (Status.DEAD_LETTERED, kept.dead_lettered_s),
                (Status.CANCELLED, kept.cancelled_s),
            ):
                before_s = self._now() - kept_s
                while page := await self._ledger.finished(target, status, before_s, _PAGE):
                    job_ids = [one.job_id for one in page]
                    await self._leave_queue(queue_of(target), job_ids)
                    await self._remove(job_ids)
                    removed += len(page)
        return removed

    async def sweep_orphans(self) -> int:
        """Remove old bodies that no row refers to; return how many there were.

        Raises:
            StoreUnavailable: as `sweep`.
        """
        removed = 0
        old: dict[str, list[str]] = {}
        before_s = self._now() - self._times.orphan_s
        async for blob in self._blobs.list(folder_of(await self._ledger.identity())):
            job_id = owner(blob.name)
            if job_id is not None and blob.modified_at_s < before_s:
                old.setdefault(job_id, []).append(blob.name)
                if len(old) >= _PAGE:
                    removed += await self._remove_orphans(old)
                    old = {}
        return removed + await self._remove_orphans(old)

    async def _leave_queue(self, queue: str, job_ids: Sequence[str]) -> None:
        """Remove jobs that are still in the queue, such as a cancelled one whose delay is not over."""
        missing = set(await self._queues.finder.missing(queue, job_ids))
        for job_id in job_ids:
            if job_id not in missing:
                await self._queues.cancelling.cancel(queue, job_id)

    async def _remove(self, job_ids: Sequence[str]) -> None:
        # A row written by another program must not cause the body of another delivery to be deleted.
        names = [name for name in await self._ledger.blobs(job_ids) if owner(name) in job_ids]
        await self._ledger.forget(job_ids)
        if names:
            # A delivery that was replayed in the meantime still has its row, and needs its body.
            kept = set(await self._ledger.blobs(list(await self._ledger.some(job_ids))))
            await self._blobs.delete([name for name in names if name not in kept])

    async def _remove_orphans(self, old: Mapping[str, Sequence[str]]) -> int:
        if not old:
            return 0
        referred = set(await self._ledger.blobs(list(old)))
        orphans = [name for names in old.values() for name in names if name not in referred]
        if orphans:
            await self._blobs.delete(orphans)
        return len(orphans)


_DEFAULT = Retention()
