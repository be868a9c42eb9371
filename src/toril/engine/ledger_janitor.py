"""Removes deliveries whose time to be kept is over, with their bodies in the blob store.

What is left of a delivery in its queue goes first, then its row, and its bodies behind them. So no job is without a
row, and no row ever refers to a body that is not there. A crash in between leaves a body that nothing refers to;
those are looked for once a day's worth of time has passed over them. Several instances may do so at once: removing
what is gone is no fault. Called by `toril.bootstrap.delivery`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog
from msgspec import Struct

from toril.core.blob import owner
from toril.core.delivery import folder_of, queue_of
from toril.core.errors import StoreError
from toril.core.lifecycle import Status
from toril.core.ports.bodies import BlobStore
from toril.core.ports.jobs import Cancels, JobFinder
from toril.core.ports.ledger import AnyLedger
from toril.core.ports.shared import Now
from toril.core.target import Retention

log = structlog.get_logger(__name__)

_PAGE = 200
_ORPHANS_EVERY_S = 3600.0
_AGAIN_S = 2.0
_WORTH_A_LINE = 2
_FAILURES_A_LINE = 30


class Queues(Struct, frozen=True):
    """The targets' queues: which jobs are there, and taking them out."""

    finder: JobFinder
    jobs: Cancels


class Bodies(Struct, frozen=True):
    """The blob store. Its folder of this ledger is looked through for bodies that nothing refers to.

    A body is put before its row is committed, so one younger than `orphan_s` may be about to get one.
    """

    store: BlobStore
    orphan_s: float = 24 * 3600.0


class Janitor:
    """Sweeps every `every_s`.

    Args:
        ledger: what is swept.
        queues: what is left there of a delivery goes before its row does, so that no job is without a row.
        bodies: the blob store.
        retention: of each configured target. What other targets have left is kept as `Retention` has it by default.
        every_s: how often.
    """

    def __init__(
        self,
        ledger: AnyLedger,
        queues: Queues,
        bodies: Bodies,
        retention: Callable[[], Mapping[str, Retention]],
        every_s: float,
        now: Now,
    ) -> None:
        self._ledger = ledger
        self._queues = queues
        self._bodies = bodies
        self._retention = retention
        self._every_s = every_s
        self._now = now

    async def run(self) -> None:
        """Sweep until cancelled."""
        loop = asyncio.get_running_loop()
        orphans_at: float | None = None
        failures = 0
        while True:
            pause_s = self._every_s
            try:
                removed = await self.sweep()
                if orphans_at is None or loop.time() - orphans_at >= _ORPHANS_EVERY_S:
                    orphans_at = loop.time()
                    removed_bodies = await self.sweep_orphans()
                    if removed_bodies:
                        log.info("janitor.orphans_removed", bodies=removed_bodies)
            except StoreError as exc:
                pause_s = min(_AGAIN_S, self._every_s)
                failures += 1
                if failures % _FAILURES_A_LINE == _WORTH_A_LINE:  # at its start the ledger may not be reached yet
                    log.warning("janitor.failed", error=exc.message)
            else:
                failures = 0
                if removed:
                    log.info("janitor.removed", deliveries=removed)
            await asyncio.sleep(pause_s)

    async def sweep(self) -> int:
        """Remove what has been kept for long enough; how many deliveries those were.

        Raises:
            StoreUnavailable: the ledger or the blob store did not answer; the next sweep goes on.
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
        """Remove bodies that nothing refers to, and that have been there for long; how many those were.

        Raises:
            StoreUnavailable: as `sweep`.
        """
        removed = 0
        old: dict[str, list[str]] = {}
        before_s = self._now() - self._bodies.orphan_s
        async for blob in self._bodies.store.list(folder_of(await self._ledger.identity())):
            job_id = owner(blob.name)
            if job_id is not None and blob.modified_at_s < before_s:
                old.setdefault(job_id, []).append(blob.name)
                if len(old) >= _PAGE:
                    removed += await self._remove_orphans(old)
                    old = {}
        return removed + await self._remove_orphans(old)

    async def _leave_queue(self, queue: str, job_ids: Sequence[str]) -> None:
        """Take out what is left in the queue, such as a cancelled job whose time has not come."""
        missing = set(await self._queues.finder.missing(queue, job_ids))
        for job_id in job_ids:
            if job_id not in missing:
                await self._queues.jobs.cancel(queue, job_id)

    async def _remove(self, job_ids: Sequence[str]) -> None:
        # A row that somebody else has written takes no other job's body along.
        names = [name for name in await self._ledger.blobs(job_ids) if owner(name) in job_ids]
        await self._ledger.forget(job_ids)
        if names:
            # One that was replayed in this moment is still there, and needs its body.
            kept = set(await self._ledger.blobs(list(await self._ledger.some(job_ids))))
            await self._bodies.store.delete([name for name in names if name not in kept])

    async def _remove_orphans(self, old: Mapping[str, Sequence[str]]) -> int:
        if not old:
            return 0
        referred = set(await self._ledger.blobs(list(old)))
        orphans = [name for names in old.values() for name in names if name not in referred]
        if orphans:
            await self._bodies.store.delete(orphans)
        return len(orphans)


_DEFAULT = Retention()
