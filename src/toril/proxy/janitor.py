"""Removes outdated data of the async proxy: ended jobs, answers in the blob store without a job, expired answers.

BullMQ removes ended jobs only when another job of the queue ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from toril.bullmq.ports.queues import QueueControl
from toril.core.blob import owner
from toril.core.errors import BlobsUnavailable, StoreError
from toril.core.ports import Now
from toril.payloads.ports import BlobStore
from toril.proxy import upstream_calls
from toril.proxy.cache import offloaded_cache
from toril.proxy.ports import ProxiedJobs
from toril.proxy.rules.proxied_job import candidates

log = structlog.get_logger(__name__)

_LONGEST_PAUSE_S = 60.0
_SHORTEST_PAUSE_S = 1.0
_AT_ONCE = 1000
OTHERS_S = 30 * 24 * 3600.0
"""How old an answer must be to be deleted if its job is in none of our queues, as others may share the store."""
CLOCKS_S = 60.0
"""How far the clocks of a store, of Redis and ours may be apart."""


class OrphanedAnswers:
    """The answers in a blob store whose jobs are gone.

    Args:
        blobs: where they are.
        jobs: tells whether a job is there.
        queues: of the upstreams.
        retention_s: how old a body must be to be looked at; before that its job may not be there yet.
        now: the wall clock.
    """

    def __init__(
        self, blobs: BlobStore, jobs: ProxiedJobs, queues: Sequence[str], retention_s: float, now: Now
    ) -> None:
        self._blobs = blobs
        self._jobs = jobs
        self._queues = queues
        self._retention_s = retention_s
        self._now = now

    async def names(self) -> list[str]:
        """Return the names of the blobs to delete."""
        before = self._now() - self._retention_s
        old = [blob async for blob in self._blobs.list(upstream_calls.FOLDER) if blob.modified_at_s <= before]
        return [
            blob.name for blob in old if await self._is_orphaned(owner(blob.name), self._now() - blob.modified_at_s)
        ]

    async def _is_orphaned(self, job_id: str | None, age_s: float) -> bool:
        if job_id is None:
            return False
        if not candidates(job_id, self._queues):
            return age_s >= OTHERS_S
        return await self._jobs.find(job_id) is None


class ExpiredAnswers:
    """The cached answers that have expired.

    Args:
        blobs: where they are.
        ttl_s: how long they are valid.
        now: the wall clock.
    """

    def __init__(self, blobs: BlobStore, ttl_s: float, now: Now) -> None:
        self._blobs = blobs
        self._ttl_s = ttl_s
        self._now = now

    async def names(self) -> list[str]:
        """Return the names of the blobs to delete."""
        before = self._now() - self._ttl_s - CLOCKS_S
        return [blob.name async for blob in self._blobs.list(offloaded_cache.FOLDER) if blob.modified_at_s <= before]


class BlobSweep:
    """Deletes the blobs that these sources name.

    Args:
        blobs: where they are.
        kinds: name the blobs to delete.
    """

    def __init__(self, blobs: BlobStore, kinds: Sequence[OrphanedAnswers | ExpiredAnswers]) -> None:
        self._blobs = blobs
        self._kinds = kinds

    async def sweep(self) -> None:
        """Delete the blobs; an error is logged."""
        for kind in self._kinds:
            try:
                for name in await kind.names():
                    await self._blobs.delete([name])
            except (StoreError, BlobsUnavailable) as exc:
                log.warning("proxy.bodies_not_swept", error=exc.message)


class ProxyJanitor:
    """Cleans the queues of the upstreams, and the blob store.

    Args:
        control: removes ended jobs.
        queues: of the upstreams.
        retention_s: how long an ended job is kept.
        blobs: deletes large answers.
    """

    def __init__(self, control: QueueControl, queues: Sequence[str], retention_s: float, blobs: BlobSweep) -> None:
        self._control = control
        self._queues = queues
        self._retention_s = retention_s
        self._blobs = blobs

    async def run(self) -> None:
        """Sweep until cancelled, ten times within the retention, but at most once a second."""
        pause_s = min(max(self._retention_s / 10, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)
        while True:
            await asyncio.sleep(pause_s)
            for queue in self._queues:
                await self.sweep(queue)
            await self._blobs.sweep()

    async def sweep(self, queue: str) -> None:
        """Remove the ended jobs of one queue whose retention is over."""
        try:
            for state in ("completed", "failed"):
                grace_ms = round(self._retention_s * 1000)
                while len(await self._control.clean(queue, state, grace_ms, _AT_ONCE)) >= _AT_ONCE:
                    pass
        except StoreError as exc:
            log.debug("proxy.sweep_failed", queue=queue, error=exc.message)
